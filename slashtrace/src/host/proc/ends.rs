use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::AsFd,
    path::Path,
};

use rustix::{
    fs::{Dir, Mode, OFlags},
    io::Errno,
};

use super::{ProcFs, fds, gone_is_none, is_gone};

/// From so many descriptors on a table is not read again for a process that shares it.
const LARGE_TABLE: i64 = 64;
/// Tables of threads that one search reads where the kernel does not say which are the same.
const THREADS_READ_MAX: usize = 4_096;
/// `KCMP_FILES` (include/uapi/linux/kcmp.h).
const KCMP_FILES: libc::c_long = 2;

/// An object whose holders are searched for, by its inode.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// Who can write to this pipe.
    Writer(u64),
    /// Who can read from this pipe.
    Reader(u64),
    /// Who has this socket.
    Socket(u64),
}

/// A descriptor that refers to a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Thread group id.
    pub pid: u32,
    /// The thread in whose table it is: the leader, unless another one has a table of its own.
    pub tid: u32,
    /// The descriptor.
    pub fd: u32,
}

/// What a search for the write ends of pipes found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WriteEnds {
    /// By inode of the pipe: who holds a write end, as (pid, fd), in the order of the search.
    pub holders: HashMap<u64, Vec<(u32, u32)>>,
    /// Whether the descriptors of some process could not be read, so that a holder may be missed.
    pub blind: bool,
}

impl ProcFs {
    /// Looks through the descriptors of `pids` for write ends of pipes, given by their inodes.
    pub fn write_ends(&self, pids: &[u32], search: &HashSet<u64>) -> WriteEnds {
        let mut holders: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
        let mut wanted = search.iter().map(|&inode| Target::Writer(inode)).collect();
        let mut found = |target, holder: Holder| {
            if let Target::Writer(inode) = target {
                holders.entry(inode).or_default().push((holder.pid, holder.fd));
            }
            true
        };
        let mut search = Search::new(self, &mut wanted, &mut found);
        // Every holder is asked for by name.
        search.tables = None;
        search.processes(pids);
        let blind = search.blind;
        WriteEnds { holders, blind }
    }

    /// Looks through the descriptors of `pids`, in this order, for targets, and calls `found` for
    /// each; a target of which that says false is not wanted any more. Ends early when none is.
    /// Whether the descriptors of some process could not be read, so that a holder may be missed.
    ///
    /// Seen are descriptors in the tables of running processes, and of their threads that have a
    /// table of their own (`CLONE_FILES`, unshare(2)). A descriptor that is on its way through a
    /// Unix socket, or registered with an io_uring and closed, is not; neither is one that a
    /// process outside of this pid namespace holds. A table that several processes share is read
    /// once, for the first of them, where it is large and the kernel says how large (Linux 6.2).
    pub fn search_holders(
        &self,
        pids: &[u32],
        wanted: &mut HashSet<Target>,
        found: &mut dyn FnMut(Target, Holder) -> bool,
    ) -> bool {
        let mut search = Search::new(self, wanted, found);
        search.processes(pids);
        search.blind
    }

    /// Whether a descriptor still refers to the target.
    pub fn holds(&self, holder: Holder, target: Target) -> bool {
        let folder = self.table(holder);
        let fd = holder.fd.to_string();
        let Ok(link) = rustix::fs::readlink(folder.join("fd").join(&fd), Vec::with_capacity(64))
        else {
            return false;
        };
        let access = || fds::access(&folder.join("fdinfo").join(&fd));
        match target {
            Target::Socket(inode) => fds::socket_inode(link.as_bytes()) == Some(inode),
            Target::Writer(inode) => {
                fds::pipe_inode(link.as_bytes()) == Some(inode)
                    && access().is_ok_and(|it| it.writes)
            }
            Target::Reader(inode) => {
                fds::pipe_inode(link.as_bytes()) == Some(inode) && access().is_ok_and(|it| it.reads)
            }
        }
    }

    fn table(&self, holder: Holder) -> std::path::PathBuf {
        if holder.tid == holder.pid {
            self.path(holder.pid, "")
        } else {
            self.path(holder.pid, "task").join(holder.tid.to_string())
        }
    }

    /// Whether two tasks share their table of descriptors, and which one comes first in an order of
    /// all tables (kcmp(2)).
    ///
    /// # Errors
    /// If the kernel does not say: one is gone (ESRCH), it may not be looked at (EPERM), kcmp is not
    /// built in (ENOSYS), or the pids in this /proc are not those of our own pid namespace.
    fn compare_tables(&self, a: u32, b: u32) -> io::Result<std::cmp::Ordering> {
        if !self.own_pids {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (a, b) = (libc::c_long::from(a as i32), libc::c_long::from(b as i32));
        // SAFETY: for KCMP_FILES the kernel takes four numbers and writes nothing.
        match unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0_i64, 0_i64) } {
            0 => Ok(std::cmp::Ordering::Equal),
            1 => Ok(std::cmp::Ordering::Less),
            2 | 3 => Ok(std::cmp::Ordering::Greater),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// One search under way.
struct Search<'a> {
    proc: &'a ProcFs,
    wanted: &'a mut HashSet<Target>,
    found: &'a mut dyn FnMut(Target, Holder) -> bool,
    blind: bool,
    /// Processes whose large tables were read, in the kernel's order of the tables; none if each
    /// process is to be read.
    tables: Option<Vec<u32>>,
    /// Tables of threads that were read without knowing whether that was necessary.
    threads_read: usize,
}

impl<'a> Search<'a> {
    fn new(
        proc: &'a ProcFs,
        wanted: &'a mut HashSet<Target>,
        found: &'a mut dyn FnMut(Target, Holder) -> bool,
    ) -> Self {
        Self { proc, wanted, found, blind: false, tables: Some(Vec::new()), threads_read: 0 }
    }

    fn processes(&mut self, pids: &[u32]) {
        for &pid in pids {
            if self.wanted.is_empty() {
                break;
            }
            self.process(pid);
        }
    }

    fn process(&mut self, pid: u32) {
        let count = match gone_is_none(self.table(pid, pid, &self.proc.path(pid, ""))) {
            Ok(None) => return,
            Ok(Some(count)) => count,
            Err(_) => {
                self.blind = true;
                return;
            }
        };
        let tasks = self.proc.path(pid, "task");
        // 2 and the number of threads (`proc_task_getattr`, fs/proc/base.c).
        match rustix::fs::stat(&tasks) {
            Ok(stat) if stat.st_nlink != 3 || count == 0 => self.threads(pid, &tasks, count == 0),
            _ => {}
        }
    }

    /// Searches the tables of threads that do not share their leader's. A leader that has ended has
    /// none any more.
    fn threads(&mut self, pid: u32, tasks: &Path, no_leader: bool) {
        let Ok(threads) = fs::read_dir(tasks) else { return };
        let mut read = if no_leader { Vec::new() } else { vec![pid] };
        for thread in threads.flatten() {
            let name = thread.file_name();
            let tid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(tid) = tid.filter(|tid| *tid != pid) else { continue };
            let mut known = false;
            for other in &read {
                match self.proc.compare_tables(*other, tid) {
                    Ok(std::cmp::Ordering::Equal) => known = true,
                    Ok(_) => {}
                    Err(error) if is_gone(&error) => {}
                    Err(_) => {
                        self.threads_read += 1;
                        known |= self.threads_read > THREADS_READ_MAX;
                        self.blind |= self.threads_read > THREADS_READ_MAX;
                        break;
                    }
                }
                if known {
                    break;
                }
            }
            if known {
                continue;
            }
            match gone_is_none(self.table(pid, tid, &thread.path())) {
                Ok(Some(count)) if count > 0 => read.push(tid),
                Ok(_) => {}
                Err(_) => self.blind = true,
            }
        }
    }

    /// Searches `folder/fd`; how many descriptors there were.
    fn table(&mut self, pid: u32, tid: u32, folder: &Path) -> io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fds = rustix::fs::open(folder.join("fd"), flags, Mode::empty())?;
        if pid == tid && self.is_known_table(pid, &fds) {
            return Ok(1);
        }
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
            self.descriptor(Holder { pid, tid, fd }, &target, folder);
        }
        Ok(count)
    }

    fn descriptor(&mut self, holder: Holder, link: &[u8], folder: &Path) {
        if let Some(inode) = fds::socket_inode(link) {
            self.hit(Target::Socket(inode), holder);
        } else if let Some(inode) = fds::pipe_inode(link) {
            let (writer, reader) = (Target::Writer(inode), Target::Reader(inode));
            if !self.wanted.contains(&writer) && !self.wanted.contains(&reader) {
                return;
            }
            match fds::access(&folder.join("fdinfo").join(holder.fd.to_string())) {
                Ok(access) => {
                    if access.writes {
                        self.hit(writer, holder);
                    }
                    if access.reads {
                        self.hit(reader, holder);
                    }
                }
                Err(error) if is_gone(&error) => {}
                Err(_) => self.blind = true,
            }
        }
    }

    fn hit(&mut self, target: Target, holder: Holder) {
        if self.wanted.contains(&target) && !(self.found)(target, holder) {
            self.wanted.remove(&target);
        }
    }

    /// Whether the table was read for another process already.
    fn is_known_table(&mut self, pid: u32, fds: &impl AsFd) -> bool {
        let Some(tables) = &mut self.tables else { return false };
        // The number of descriptors (`proc_fd_getattr`, fs/proc/fd.c).
        if !rustix::fs::fstat(fds).is_ok_and(|stat| stat.st_size >= LARGE_TABLE) {
            return false;
        }
        let mut failed = false;
        let place = tables.binary_search_by(|other| {
            self.proc.compare_tables(*other, pid).unwrap_or_else(|_| {
                failed = true;
                std::cmp::Ordering::Less
            })
        });
        match place {
            Ok(_) => true,
            Err(at) => {
                if !failed {
                    tables.insert(at, pid);
                }
                false
            }
        }
    }
}

impl ProcFs {
    /// Whether a process has several threads; `None` if it is gone (`proc_task_getattr`,
    /// fs/proc/base.c: 2 links and one for each thread).
    pub(super) fn has_threads(&self, pid: u32) -> io::Result<Option<bool>> {
        match rustix::fs::stat(self.path(pid, "task")) {
            Ok(stat) => Ok(Some(stat.st_nlink > 3)),
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
