use std::io;

use super::{ProcFs, first_word, number};

/// System calls that wait for something to be read from a descriptor, their first argument. Those
/// that wait for several descriptors are not among them.
const READS: [libc::c_long; 4] =
    [libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg];

impl ProcFs {
    /// Whether the main thread of a process waits in a read of this descriptor (`syscall`,
    /// proc_pid_syscall(5): the number and arguments of the system call that it is blocked in).
    /// False if it is gone, or runs.
    ///
    /// # Errors
    /// If it may not be looked at: only who may trace it may.
    pub fn is_reading(&self, pid: u32, fd: u32) -> io::Result<bool> {
        let mut text = [0; 256];
        let len = self.read_small(pid, "syscall", &mut text)?.unwrap_or(0);
        Ok(reads(&text[..len], fd))
    }
}

/// `0 0x0 0x7f… 0x400 …`; `running`; `-1 0x7f… 0x55…` for one that is blocked outside of a system
/// call.
pub(super) fn reads(text: &[u8], fd: u32) -> bool {
    let called = number(first_word(text)).and_then(|call| libc::c_long::try_from(call).ok());
    let argument = text.split(|&b| b == b' ').nth(1).and_then(|argument| {
        let digits = std::str::from_utf8(argument.strip_prefix(b"0x")?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    });
    called.is_some_and(|call| READS.contains(&call)) && argument == Some(u64::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_read_of_that_descriptor_counts() {
        let text = |call: libc::c_long, fd: &str| format!("{call} {fd} 0x7f00 0x400 0x0\n");
        let is = |text: &str| reads(text.as_bytes(), 0);
        assert!(is(&text(libc::SYS_read, "0x0")) && is(&text(libc::SYS_recvmsg, "0x0")));
        assert!(!is(&text(libc::SYS_read, "0x3")));
        assert!(!is(&text(libc::SYS_ppoll, "0x0")) && !is(&text(libc::SYS_write, "0x0")));
        assert!(!is("running\n") && !is("-1 0x0 0x7f\n") && !is("") && !is("0"));
    }
}
