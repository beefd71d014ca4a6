use super::{Cmdline, Ids, ProcStat, fds, field, first_word, number, pids_in, syscall};

/// Reads what may be any of the files of a process.
pub(crate) fn files(bytes: &[u8]) {
    if let Some(stat) = ProcStat::parse(bytes, 10_000_000, 4) {
        let _ = stat.ended();
    }
    let _ = Ids::parse(7, bytes);
    for name in [&b"syscr:"[..], b"Pss:", b"flags:", b"MemTotal:"] {
        let _ = field(bytes, name).and_then(|value| number(first_word(value)));
    }
    let _ = syscall::reads(bytes, 0);
    let _ = (fds::pipe_inode(bytes), fds::socket_inode(bytes));
    let _ = pids_in(bytes).count();
    for truncated in [false, true] {
        let cmdline = Cmdline { bytes: bytes.to_vec(), truncated };
        assert!(cmdline.tokens().concat().len() <= bytes.len());
    }
}
