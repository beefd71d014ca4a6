use std::{io, mem::MaybeUninit, path::Path};

use rustix::fs::{CWD, Dir, Mode, OFlags};

use super::{ProcFs, gone_is_none, is_gone, path::ShortPath, read_up_to};
use crate::model::EndKind;

/// Threads that are asked for a descriptor of a process whose leader has ended.
const THREADS_ASKED_MAX: usize = 8;

/// What a descriptor is open on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FdEnd {
    /// What it is.
    pub kind: EndKind,
    /// Inode of the pipe or socket; 0 for anything else.
    pub inode: u64,
}

/// How a descriptor was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) reads: bool,
    pub(super) writes: bool,
}

impl ProcFs {
    /// What a descriptor is open on; `None` if the process is gone. The link is read, never
    /// followed: opening it would make us another end of a pipe. Of a process whose leader has
    /// ended while threads of it run, theirs is read.
    ///
    /// # Errors
    /// If it may not be read.
    pub fn fd_end(&self, pid: u32, fd: u32) -> io::Result<Option<FdEnd>> {
        match fd_end(&self.short(pid, "fd/")?.number(fd)?) {
            Err(error) if is_gone(&error) => {}
            other => return other.map(Some),
        }
        match self.has_threads(pid)? {
            None if !self.path(pid, "fd").exists() => Ok(None),
            Some(true) if self.has_no_descriptor(pid) => Ok(Some(self.fd_end_of_thread(pid, fd))),
            _ => Ok(Some(FdEnd { kind: EndKind::Closed, inode: 0 })),
        }
    }

    fn fd_end_of_thread(&self, pid: u32, fd: u32) -> FdEnd {
        let threads = std::fs::read_dir(self.path(pid, "task")).into_iter().flatten().flatten();
        for thread in threads.take(THREADS_ASKED_MAX) {
            let name = thread.file_name();
            let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let link = self.short(tid, "fd/").and_then(|folder| folder.number(fd));
            if let Ok(end) = link.and_then(|link| fd_end(&link)) {
                return end;
            }
        }
        FdEnd { kind: EndKind::Closed, inode: 0 }
    }

    /// A leader that has ended let go of its table.
    fn has_no_descriptor(&self, pid: u32) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(fds) = rustix::fs::open(self.path(pid, "fd"), flags, Mode::empty()) else {
            return false;
        };
        let Ok(entries) = Dir::read_from(&fds) else { return false };
        entries.flatten().all(|entry| entry.file_name().to_bytes().starts_with(b"."))
    }

    /// Inode of the pipe that a descriptor is one end of; `None` if it is no anonymous pipe, is
    /// closed, or the process is gone. The link is read, never followed: opening it would make us
    /// another end of the pipe.
    pub fn fd_pipe(&self, pid: u32, fd: u32) -> io::Result<Option<u64>> {
        let link = self.short(pid, "fd/").and_then(|folder| folder.number(fd));
        gone_is_none(link.and_then(|link| object(&link, b"pipe:["))).map(Option::flatten)
    }

    /// Inode of the mount namespace of a process (namespaces(7)); `None` if it is gone, or may not
    /// be seen.
    pub fn mount_namespace(&self, pid: u32) -> Option<u64> {
        object(&self.short(pid, "ns/mnt").ok()?, b"mnt:[").ok()?
    }
}

fn fd_end(link: &ShortPath) -> io::Result<FdEnd> {
    // Of a longer path the beginning says enough.
    let mut target = [MaybeUninit::uninit(); 64];
    let (target, _) = rustix::fs::readlinkat_raw(CWD, link.as_c_str(), &mut target)?;
    if let Some(inode) = pipe_inode(target) {
        return Ok(FdEnd { kind: EndKind::Pipe, inode });
    }
    if let Some(inode) = socket_inode(target) {
        return Ok(FdEnd { kind: EndKind::Socket, inode });
    }
    let kind = match &*target {
        b"/dev/null" => EndKind::Null,
        b"/dev/tty" | b"/dev/console" | b"/dev/ptmx" => EndKind::Terminal,
        path if path.starts_with(b"/dev/pts/") || path.starts_with(b"/dev/tty") => {
            EndKind::Terminal
        }
        path if path.starts_with(b"/") => EndKind::File,
        _ => EndKind::Other,
    };
    Ok(FdEnd { kind, inode: 0 })
}

/// The inode of what a link in /proc stands for, if that is of this sort and no file.
fn object(link: &ShortPath, sort: &[u8]) -> io::Result<Option<u64>> {
    // A path that is longer than this is another sort's.
    let mut target = [MaybeUninit::uninit(); 64];
    let (target, _) = rustix::fs::readlinkat_raw(CWD, link.as_c_str(), &mut target)?;
    Ok(inode(target, sort))
}

/// `pipe:[123]`. The path of a file begins with a slash, so no file can be called that.
pub(super) fn pipe_inode(target: &[u8]) -> Option<u64> {
    inode(target, b"pipe:[")
}

/// `socket:[123]`.
pub(super) fn socket_inode(target: &[u8]) -> Option<u64> {
    inode(target, b"socket:[")
}

fn inode(target: &[u8], sort: &[u8]) -> Option<u64> {
    super::number(target.strip_prefix(sort)?.strip_suffix(b"]")?)
}

/// How a descriptor was opened (`flags` of fdinfo, octal, proc_pid_fdinfo(5)).
pub(super) fn access(fdinfo: &Path) -> io::Result<Access> {
    let mut text = [0; 1024];
    let len = read_up_to(fdinfo, &mut text)?;
    let flags = super::field(&text[..len], b"flags:")
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo has no flags"))?;
    let mode = flags & libc::O_ACCMODE as u32;
    let both = mode == libc::O_RDWR as u32;
    Ok(Access {
        reads: both || mode == libc::O_RDONLY as u32,
        writes: both || mode == libc::O_WRONLY as u32,
    })
}
