//! What /proc says of a process: CPU time, memory, context switches, BPF programs.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

/// `USER_HZ`: the tick of /proc/PID/stat is 10 ms on every architecture that is built for.
const TICK_NS: u64 = 10_000_000;

/// CPU time, user and system, of all threads that live, ns (/proc/PID/schedstat; sched(7) has
/// accounted it in ns, where /proc/PID/stat has ticks of 10 ms).
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let read = |file: PathBuf| {
        fs::read_to_string(file).ok()?.split_whitespace().next()?.parse::<u64>().ok()
    };
    let threads: u64 = threads(pid)?.into_iter().filter_map(|t| read(t.join("schedstat"))).sum();
    Ok(threads)
}

/// User and system time of a process and of its children that were waited for, ns, by ticks.
pub(crate) fn times_ns(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse_times(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))
}

/// Fields 14 to 17 of proc_pid_stat(5): utime, stime, cutime, cstime.
fn parse_times(stat: &str) -> Option<(u64, u64)> {
    let (_, after_comm) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after_comm.split(' ').collect();
    let ticks = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(((ticks(14)? + ticks(16)?) * TICK_NS, (ticks(15)? + ticks(17)?) * TICK_NS))
}

/// State letter of proc_pid_stat(5), `Z` once it ended and nobody has waited for it.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Resident set, KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    status(pid, "VmRSS")
}

/// The most that the resident set has been, KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> Result<u64> {
    status(pid, "VmHWM")
}

/// A number of /proc/PID/status.
pub(crate) fn status(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    field(&text, name).with_context(|| format!("/proc/{pid}/status has no {name}"))
}

/// A number of a text with lines such as `VmRSS:  812 kB`.
pub(crate) fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How often its threads were switched to: wake-ups, and where they were preempted.
pub(crate) fn switches(pid: u32) -> Result<u64> {
    let of = |thread: PathBuf| {
        let text = fs::read_to_string(thread.join("status")).ok()?;
        Some(field(&text, "voluntary_ctxt_switches")? + field(&text, "nonvoluntary_ctxt_switches")?)
    };
    Ok(threads(pid)?.into_iter().filter_map(of).sum())
}

/// Ids of the BPF programs that a process holds open.
pub(crate) fn programs(pid: u32) -> BTreeSet<u32> {
    ids(pid, "prog_id:")
}

/// Ids of the BPF maps that a process holds open.
pub(crate) fn maps(pid: u32) -> BTreeSet<u32> {
    ids(pid, "map_id:")
}

fn ids(pid: u32, name: &str) -> BTreeSet<u32> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return BTreeSet::new() };
    let id = |text: String| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
    files.flatten().filter_map(|file| id(fs::read_to_string(file.path()).ok()?)).collect()
}

fn threads(pid: u32) -> Result<Vec<PathBuf>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("process {pid} is gone"))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Sends a signal to a process that this program started.
pub(crate) fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([name, &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_comm_with_blanks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 5 6 7";
        assert_eq!(parse_times(stat), Some((44 * TICK_NS, 66 * TICK_NS)));
        assert_eq!(parse_times("7 (a"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t 812 kB\n";
        assert_eq!(field(status, "VmRSS"), Some(812));
        assert_eq!(field(status, "VmHWM"), None);
    }

    #[test]
    fn this_process_has_what_is_read() {
        let pid = std::process::id();
        assert!(rss_kib(pid).expect("Linux") > 0);
        assert!(peak_rss_kib(pid).expect("Linux") >= rss_kib(pid).expect("Linux") / 2);
        assert!(cpu_ns(pid).expect("Linux") > 0 && switches(pid).expect("Linux") > 0);
        assert!(state(pid).is_some());
    }
}
