use crate::model::Terminal;

/// Majors of the Unix 98 PTY slaves (`UNIX98_PTY_SLAVE_MAJOR` and its seven followers,
/// Documentation/admin-guide/devices.txt).
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// One line of /proc/PID/stat (proc_pid_stat(5)), as far as it is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcStat {
    /// Thread group id.
    pub pid: u32,
    /// `task_struct.comm` of the thread group leader: any bytes but NUL.
    pub comm: Vec<u8>,
    /// State letter of the thread group leader.
    pub state: char,
    /// Current parent; 0 for pid 1 and for a parent outside of this pid namespace.
    pub ppid: u32,
    /// Process group.
    pub pgrp: u32,
    /// Session (`setsid(2)`).
    pub sid: u32,
    /// Controlling terminal, if it is a PTY.
    pub terminal: Option<Terminal>,
    /// Number of threads.
    pub threads: u32,
    /// Start of the thread group leader, ns of the boot clock, rounded down to a clock tick
    /// (`nsec_to_clock_t` in fs/proc/array.c). In a time namespace the namespace's offset is in it.
    pub start_ns: u64,
    /// Resident set, KiB. The kernel keeps it per CPU, so it may be off by some dozen pages.
    pub rss_kib: u64,
    /// Where the argument area begins, which exec chooses anew (stack randomization) and fork
    /// keeps; 0 where the reader may not see it (another user's process) or there is none.
    pub arg_start: u64,
}

impl ProcStat {
    /// Longer than the line is: some 350 bytes, and at most 64 of comm and 52 64-bit numbers.
    pub(super) const LINE_MAX: usize = 2048;

    /// Parses the line. comm may hold spaces, parentheses and newlines, so the fields after it are
    /// counted from the *last* parenthesis.
    pub(super) fn parse(line: &[u8], tick_ns: u64, page_kib: u64) -> Option<Self> {
        let open = line.iter().position(|&b| b == b'(')?;
        let close = line.iter().rposition(|&b| b == b')')?;
        let pid = super::number(line[..open].trim_ascii())?;
        let comm = line.get(open + 1..close)?.to_vec();
        let mut fields =
            line[close + 1..].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let state = char::from(*fields.next()?.first()?);
        // Fields by their number in the manual, from 4 on; a negative one (no value) is 0.
        let mut values = [0_u64; 53];
        for (at, word) in (4..values.len()).zip(fields) {
            values[at] = super::number(word).unwrap_or(0);
        }
        // Every kernel that can run this has field 24; 48 came with Linux 3.5.
        if values[20] == 0 {
            return None;
        }
        Some(Self {
            pid: pid as u32,
            comm,
            state,
            ppid: values[4] as u32,
            pgrp: values[5] as u32,
            sid: values[6] as u32,
            terminal: pts(values[7] as u32),
            threads: values[20] as u32,
            start_ns: values[22].saturating_mul(tick_ns),
            rss_kib: values[24].saturating_mul(page_kib),
            arg_start: values[48],
        })
    }

    /// Whether the whole thread group has ended. A leader that ended before its threads is shown as
    /// `Z`, too.
    pub fn ended(&self) -> bool {
        matches!(self.state, 'X' | 'x') || (self.state == 'Z' && self.threads <= 1)
    }
}

/// The PTY a `tty_nr` stands for. Kernel encoding (`new_encode_dev`, include/linux/kdev_t.h): major
/// in bits 8–19, minor in bits 0–7 and 20–31.
fn pts(tty_nr: u32) -> Option<Terminal> {
    let major = tty_nr >> 8 & 0xfff;
    let minor = tty_nr & 0xff | tty_nr >> 12 & 0xf_ff00;
    PTS_MAJORS
        .contains(&major)
        .then(|| Terminal { instance: None, index: ((major - PTS_MAJORS.start()) << 8) + minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 10_000_000;

    fn line(pid: u32, comm: &str, rest: &str) -> Vec<u8> {
        format!("{pid} ({comm}) {rest}\n").into_bytes()
    }

    const REST: &str = "S 7 8 9 34816 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 1234 4096 25 \
                        18446744073709551615 1 2 3 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 5 6 7 4242 0 0 0 0";

    #[test]
    fn reads_the_fields() {
        let stat = ProcStat::parse(&line(42, "python3", REST), TICK, 4).unwrap();
        assert_eq!(stat.comm, b"python3");
        assert_eq!((stat.pid, stat.ppid, stat.pgrp, stat.sid), (42, 7, 8, 9));
        assert_eq!((stat.state, stat.threads, stat.rss_kib), ('S', 3, 100));
        assert_eq!(stat.start_ns, 12_340_000_000);
        assert_eq!(stat.terminal, Some(Terminal { instance: None, index: 0 }));
        assert_eq!(stat.arg_start, 4242);
    }

    proptest::proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn any_line_is_read_or_refused(mutations in crate::fuzz::mutations()) {
            let line = crate::fuzz::mutated(&line(42, "python3", REST), &mutations);
            drop(ProcStat::parse(&line, TICK, 4));
        }
    }

    #[test]
    fn comm_cannot_forge_fields() {
        for comm in ["a) R 1 (b", ") Z 1 1", "(((", "two\nlines) X 0", "", "a b  c"] {
            let stat = ProcStat::parse(&line(42, comm, REST), TICK, 4).unwrap();
            assert_eq!((stat.comm.as_slice(), stat.state, stat.ppid), (comm.as_bytes(), 'S', 7));
        }
    }

    #[test]
    fn a_cut_or_foreign_line_is_refused() {
        for bad in ["", "42", "42 (a", "42 (a) S", "x (a) S 1 2 3", "42 a) S ("] {
            assert_eq!(ProcStat::parse(bad.as_bytes(), TICK, 4), None, "{bad}");
        }
    }

    #[test]
    fn decodes_terminals() {
        assert_eq!(pts(0), None);
        assert_eq!(pts(4 << 8 | 1), None, "a virtual console is no PTY");
        assert_eq!(pts(136 << 8 | 3), Some(Terminal { instance: None, index: 3 }));
        assert_eq!(pts(137 << 8 | 3), Some(Terminal { instance: None, index: 259 }));
        assert_eq!(
            pts(1 << 20 | 136 << 8),
            Some(Terminal { instance: None, index: 256 }),
            "minor above 255"
        );
    }

    #[test]
    fn a_leader_that_ended_before_its_threads_has_not_ended() {
        let of = |state: &str, threads: &str| {
            let rest = REST.replacen('S', state, 1).replacen(" 3 0 1234", threads, 1);
            ProcStat::parse(&line(1, "a", &rest), TICK, 4).unwrap().ended()
        };
        assert!(of("Z", " 1 0 1234"));
        assert!(!of("Z", " 3 0 1234"));
        assert!(of("X", " 1 0 1234"));
        assert!(!of("S", " 1 0 1234"));
    }
}
