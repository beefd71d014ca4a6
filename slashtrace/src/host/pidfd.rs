use std::{io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};

/// Opens the process that has `pid` (pidfd_open(2), Linux 5.3).
///
/// # Errors
/// ESRCH if there is none; EMFILE and the like.
pub(crate) fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// Whether the process has ended: its pidfd is readable then (pidfd_open(2)). As long as it has
/// not, its pid was its own.
///
/// # Errors
/// Those of poll(2).
pub(crate) fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut fds, Some(&none))? > 0)
}

/// `struct pidfd_info` (include/uapi/linux/pidfd.h), as far as each kernel that has it knows it.
#[derive(Default)]
#[repr(C)]
struct Info {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    others: [u32; 8],
}

/// `PIDFD_INFO_CREDS` (include/uapi/linux/pidfd.h).
const CREDS: u64 = 1 << 1;
/// `PIDFD_GET_INFO` (include/uapi/linux/pidfd.h).
const GET_INFO: Opcode = opcode::read_write::<Info>(0xff, 11);

/// Real user id of a process as it is now, the same as in /proc/PID/status; `None` where the kernel
/// does not tell that of a pidfd (before Linux 6.13), or of this process (it was reaped, or its
/// parent is outside of this pid namespace).
pub(crate) fn uid(pidfd: &OwnedFd) -> Option<u32> {
    let mut info = Info { mask: CREDS, ..Info::default() };
    // SAFETY: the opcode is that of `PIDFD_GET_INFO` for a structure of this size, which the kernel
    // takes from the opcode (`pidfd_info`, fs/pidfs.c): it writes no more than that. On another
    // kernel it is an error.
    unsafe { ioctl(pidfd, Updater::<GET_INFO, Info>::new(&mut info)) }.ok()?;
    (info.mask & CREDS != 0).then_some(info.ruid)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;
    use crate::host::proc::ProcFs;

    #[test]
    fn the_uid_is_the_real_one_of_that_process() {
        let proc = ProcFs::default();
        let mut command = Command::new("sleep");
        command.arg("60");
        if rustix::process::geteuid().is_root() {
            command.uid(65_534);
        }
        let mut child = command.spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        let ids = proc.ids(child.id()).unwrap().unwrap();
        let tells = uid(&pidfd);
        if tells.is_none() {
            eprintln!("SKIPPED: this kernel has no PIDFD_GET_INFO");
        }
        assert!(tells.is_none_or(|uid| uid == ids.uid), "{tells:?}");
        assert!(!has_ended(&pidfd).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&pidfd).unwrap());
        assert_eq!(uid(&pidfd), None);
        assert_eq!(open(child.id()).unwrap_err(), Errno::SRCH);
        assert_eq!(open(0).unwrap_err(), Errno::SRCH);
    }
}
