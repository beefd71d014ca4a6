//! The two clocks: the boot clock that everything is judged by, and wall time for people.

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now, ns of `CLOCK_BOOTTIME` (the clock of `task_struct.start_boottime` and
/// `bpf_ktime_get_boot_ns`).
pub fn boottime_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Boottime))
}

/// CPU time of this thread so far, ns: what something costs, however busy the machine is.
pub fn thread_cpu_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// Wall-clock time of a moment of the boot clock, by the offset between the clocks now. A step of
/// the wall clock moves later times only; nothing is judged by them.
pub fn wall_time(boottime_ns: u64) -> Timestamp {
    let behind = boottime_ns_signed() - i64::try_from(boottime_ns).unwrap_or(i64::MAX);
    Timestamp::now()
        .checked_sub(SignedDuration::from_nanos(behind))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether clocks of a time namespace are shifted, by its /proc/PID/timens_offsets: lines of clock,
/// seconds, nanoseconds (time_namespaces(7)).
pub fn is_shifted(offsets: &str) -> bool {
    offsets.lines().any(|line| line.split_whitespace().skip(1).any(|number| number != "0"))
}

fn boottime_ns_signed() -> i64 {
    i64::try_from(boottime_ns()).unwrap_or(i64::MAX)
}

fn to_ns(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
