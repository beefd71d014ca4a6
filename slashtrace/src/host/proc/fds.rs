use std::{
    collections::{HashMap, HashSet},
    fs, io,
    mem::MaybeUninit,
    path::Path,
};

use rustix::fs::{CWD, Dir, Mode, OFlags};

use super::{ProcFs, gone_is_none, path::ShortPath, read_up_to};

/// What a search for the write ends of pipes found.
///
/// Seen are descriptors in the tables of running processes. A descriptor that is on its way through
/// a Unix socket, or registered with an io_uring and closed, is not; neither is one that a process
/// outside of this pid namespace holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WriteEnds {
    /// By inode of the pipe: who holds a write end, as (pid, fd), in the order of the search.
    pub holders: HashMap<u64, Vec<(u32, u32)>>,
    /// Whether the descriptors of some process could not be read, so that a holder may be missed.
    pub blind: bool,
}

impl ProcFs {
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

    /// Whether a descriptor was opened for writing (`flags` of fdinfo, octal, proc_pid_fdinfo(5)).
    pub fn fd_writes(&self, pid: u32, fd: u32) -> io::Result<bool> {
        let mut text = [0; 1024];
        let path = self.short(pid, "fdinfo/")?.number(fd)?;
        let len = path.read(&mut text)?;
        writes(&text[..len])
    }

    /// Looks through the descriptors of `pids` for write ends of pipes, given by their inodes.
    pub fn write_ends(&self, pids: &[u32], search: &HashSet<u64>) -> WriteEnds {
        let mut found = WriteEnds::default();
        for &pid in pids {
            match self.search_process(pid, search, &mut found) {
                // A process without descriptors: a kernel thread or a zombie; or one whose main
                // thread ended (and let go of the table) while others run.
                Ok(Some(0)) => self.search_threads(pid, search, &mut found),
                Ok(_) => {}
                Err(_) => found.blind = true,
            }
        }
        found
    }

    fn search_process(
        &self,
        pid: u32,
        search: &HashSet<u64>,
        found: &mut WriteEnds,
    ) -> io::Result<Option<usize>> {
        gone_is_none(search_folder(pid, &self.path(pid, ""), search, found))
    }

    fn search_threads(&self, pid: u32, search: &HashSet<u64>, found: &mut WriteEnds) {
        let Ok(threads) = fs::read_dir(self.path(pid, "task")) else {
            return;
        };
        for thread in threads.flatten() {
            if thread.file_name().to_str() == Some(&pid.to_string()) {
                continue;
            }
            match gone_is_none(search_folder(pid, &thread.path(), search, found)) {
                Ok(None | Some(0)) => {}
                // Threads share their table, so one of them is enough.
                Ok(Some(_)) => return,
                Err(_) => found.blind = true,
            }
        }
    }
}

/// Searches `folder/fd`; how many descriptors there were.
fn search_folder(
    pid: u32,
    folder: &Path,
    search: &HashSet<u64>,
    found: &mut WriteEnds,
) -> io::Result<usize> {
    let fds = rustix::fs::open(
        folder.join("fd"),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut count = 0;
    let mut target = Vec::with_capacity(64);
    for entry in Dir::read_from(&fds)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(fd) = name.to_str().ok().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        count += 1;
        target.clear();
        // A descriptor that was closed meanwhile is not held.
        let Ok(link) = rustix::fs::readlinkat(&fds, name, target) else {
            target = Vec::with_capacity(64);
            continue;
        };
        target = link.into_bytes();
        let Some(inode) = pipe_inode(&target).filter(|inode| search.contains(inode)) else {
            continue;
        };
        match fd_writes(&folder.join("fdinfo").join(fd.to_string())) {
            Ok(true) => found.holders.entry(inode).or_default().push((pid, fd)),
            Ok(false) => {}
            Err(error) if super::is_gone(&error) => {}
            Err(_) => found.blind = true,
        }
    }
    Ok(count)
}

/// The inode of what a link in /proc stands for, if that is of this sort and no file.
fn object(link: &ShortPath, sort: &[u8]) -> io::Result<Option<u64>> {
    // A path that is longer than this is another sort's.
    let mut target = [MaybeUninit::uninit(); 64];
    let (target, _) = rustix::fs::readlinkat_raw(CWD, link.as_c_str(), &mut target)?;
    Ok(inode(target, sort))
}

/// `pipe:[123]`. The path of a file begins with a slash, so no file can be called that.
fn pipe_inode(target: &[u8]) -> Option<u64> {
    inode(target, b"pipe:[")
}

fn inode(target: &[u8], sort: &[u8]) -> Option<u64> {
    super::number(target.strip_prefix(sort)?.strip_suffix(b"]")?)
}

fn fd_writes(fdinfo: &Path) -> io::Result<bool> {
    let mut text = [0; 1024];
    let len = read_up_to(fdinfo, &mut text)?;
    writes(&text[..len])
}

fn writes(fdinfo: &[u8]) -> io::Result<bool> {
    let flags = super::field(fdinfo, b"flags:")
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo has no flags"))?;
    let access = flags & libc::O_ACCMODE as u32;
    Ok(access == libc::O_WRONLY as u32 || access == libc::O_RDWR as u32)
}
