use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{Dir, Mode, OFlags},
    io::Errno,
};

use super::{ProcFs, budget::Meter, fds, gone_is_none, is_gone, unread::Unseen};

/// From so many descriptors on a table is not read again for a process that shares it.
const LARGE_TABLE: usize = 64;
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
    /// Whether the descriptors of some process could not be read, or its user is over its budget, so
    /// that a holder may be missed.
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
        let blind = search.unseen.blind || !search.unseen.unread.is_empty();
        WriteEnds { holders, blind }
    }

    /// Looks through the descriptors of `pids`, in this order, for targets, and calls `found` for
    /// each; a target of which that says false is not wanted any more. Ends early when none is.
    /// What could not be looked at, so that a holder may be missed: what may not be read, and the
    /// processes of users that are over their budgets (`budget`).
    ///
    /// Seen are descriptors in the tables of running processes, and of their threads that have a
    /// table of their own (`CLONE_FILES`, unshare(2)). A descriptor that is on its way through a
    /// Unix socket, or registered with an io_uring and closed, is not; neither is one that a
    /// process outside of this pid namespace holds. A table that several processes share is read
    /// once, for the first of them, where it is large.
    pub fn search_holders(
        &self,
        pids: &[u32],
        wanted: &mut HashSet<Target>,
        found: &mut dyn FnMut(Target, Holder) -> bool,
    ) -> Unseen {
        let mut search = Search::new(self, wanted, found);
        search.processes(pids);
        search.unseen
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
    fn compare_tables(&self, a: u32, b: u32) -> io::Result<Ordering> {
        if !self.own_pids {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (a, b) = (libc::c_long::from(a as i32), libc::c_long::from(b as i32));
        // SAFETY: for KCMP_FILES the kernel takes four numbers and writes nothing.
        match unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0_i64, 0_i64) } {
            0 => Ok(Ordering::Equal),
            1 => Ok(Ordering::Less),
            2 | 3 => Ok(Ordering::Greater),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// One search under way.
struct Search<'a> {
    proc: &'a ProcFs,
    wanted: &'a mut HashSet<Target>,
    found: &'a mut dyn FnMut(Target, Holder) -> bool,
    unseen: Unseen,
    /// Processes whose large tables were read to the end, in the kernel's order of the tables; none
    /// if each process is to be read.
    tables: Option<Vec<u32>>,
    /// Tables of threads that were read without knowing whether that was necessary.
    threads_read: usize,
}

/// What came of reading a table.
enum Read {
    /// It has so many descriptors, and each was looked at.
    All(usize),
    /// It was read for another process before.
    Known,
    /// Its user is over its budget.
    Stopped,
}

/// A process that is looked at, and the folder of its descriptors.
struct Process<'a> {
    pid: u32,
    uid: u32,
    meter: Meter<'a>,
}

impl<'a> Search<'a> {
    fn new(
        proc: &'a ProcFs,
        wanted: &'a mut HashSet<Target>,
        found: &'a mut dyn FnMut(Target, Holder) -> bool,
    ) -> Self {
        let unseen = Unseen::default();
        Self { proc, wanted, found, unseen, tables: Some(Vec::new()), threads_read: 0 }
    }

    fn processes(&mut self, pids: &[u32]) {
        for &pid in pids {
            if self.wanted.is_empty() {
                break;
            }
            match self.process(pid) {
                // One that has ended holds nothing.
                Err(error) if is_gone(&error) => {}
                Err(_) => self.unseen.blind = true,
                Ok(()) => {}
            }
        }
    }

    fn process(&mut self, pid: u32) -> io::Result<()> {
        let folder = self.proc.path(pid, "");
        let fds = open_table(&folder)?;
        let stat = rustix::fs::fstat(&fds)?;
        let uid = self.proc.real_uid(pid, stat.st_uid)?;
        let Some(meter) = self.proc.meter_of(uid) else {
            self.unseen.unread.add(uid, pid);
            return Ok(());
        };
        let mut process = Process { pid, uid, meter };
        // The number of descriptors, from Linux 6.2 on (`proc_fd_getattr`, fs/proc/fd.c).
        let large = usize::try_from(stat.st_size).is_ok_and(|size| size >= LARGE_TABLE);
        let (any, more) = match self.table(&mut process, pid, &fds, &folder, large)? {
            Read::All(count) => (count > 0, true),
            Read::Known => (true, true),
            Read::Stopped => (true, false),
        };
        let tasks = self.proc.path(pid, "task");
        // 2 and the number of threads (`proc_task_getattr`, fs/proc/base.c).
        let complete = match rustix::fs::stat(&tasks) {
            Ok(stat) if more && (stat.st_nlink != 3 || !any) => {
                self.threads(&mut process, &tasks, !any)
            }
            _ => more,
        };
        if !complete {
            self.unseen.unread.add(process.uid, pid);
        }
        Ok(())
    }

    /// Searches the tables of threads that do not share their leader's. A leader that has ended has
    /// none any more. False if the user is over its budget.
    fn threads(&mut self, process: &mut Process<'_>, tasks: &Path, no_leader: bool) -> bool {
        let Ok(threads) = fs::read_dir(tasks) else { return true };
        let pid = process.pid;
        // Of those with tables of their own, in the kernel's order of the tables.
        let mut read = if no_leader { Vec::new() } else { vec![pid] };
        for thread in threads.flatten() {
            let name = thread.file_name();
            let tid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(tid) = tid.filter(|tid| *tid != pid) else { continue };
            let mut over = !process.meter.read();
            let place = self.place_of(tid, &read, || over |= !process.meter.read());
            if over {
                return false;
            }
            let at = match place {
                Ok(Ok(_)) => continue,
                Ok(Err(at)) => Some(at),
                // One of the two has ended.
                Err(error) if is_gone(&error) => None,
                Err(_) => {
                    self.threads_read += 1;
                    if self.threads_read > THREADS_READ_MAX {
                        self.unseen.blind = true;
                        continue;
                    }
                    None
                }
            };
            let path = thread.path();
            let table =
                open_table(&path).and_then(|fds| self.table(process, tid, &fds, &path, false));
            match gone_is_none(table) {
                Ok(Some(Read::All(count))) if count > 0 => {
                    if let Some(at) = at {
                        read.insert(at, tid);
                    }
                }
                Ok(Some(Read::Stopped)) => return false,
                Ok(_) => {}
                Err(_) => self.unseen.blind = true,
            }
        }
        true
    }

    /// Where a task's table is among those of `others`, in the kernel's order: there, or to be put
    /// there.
    fn place_of(
        &self,
        task: u32,
        others: &[u32],
        mut compared: impl FnMut(),
    ) -> io::Result<Result<usize, usize>> {
        let mut failed = None;
        let place = others.binary_search_by(|other| {
            compared();
            self.proc.compare_tables(*other, task).unwrap_or_else(|error| {
                failed = Some(error);
                Ordering::Less
            })
        });
        failed.map_or(Ok(place), Err)
    }

    /// Where the table of a process is among the large ones that were read, or is to be put; `None`
    /// where that is not known or not asked.
    fn among_read(&mut self, process: &mut Process<'_>) -> Option<Result<usize, usize>> {
        loop {
            let others = self.tables.as_deref()?;
            let place = self.place_of(process.pid, others, || _ = process.meter.read());
            if let Ok(place) = place {
                return Some(place);
            }
            // One that has ended since, or that nobody may look into, is equal to none.
            let (proc, before) = (self.proc, others.len());
            let tables = self.tables.as_mut()?;
            tables.retain(|other| proc.compare_tables(*other, *other).is_ok());
            if tables.len() == before {
                return None;
            }
        }
    }

    /// Searches the descriptors in a folder.
    fn table(
        &mut self,
        process: &mut Process<'_>,
        tid: u32,
        fds: &OwnedFd,
        folder: &Path,
        large: bool,
    ) -> io::Result<Read> {
        let pid = process.pid;
        let mut place = None;
        let mut asked = pid != tid;
        if large && !std::mem::replace(&mut asked, true) {
            match self.among_read(process) {
                Some(Ok(_)) => return Ok(Read::Known),
                among => place = among.and_then(Result::err),
            }
        }
        let mut count = 0;
        let mut target = Vec::with_capacity(64);
        for entry in Dir::read_from(fds)? {
            // Older kernels do not say how large it is.
            if count >= LARGE_TABLE && !std::mem::replace(&mut asked, true) {
                match self.among_read(process) {
                    Some(Ok(_)) => return Ok(Read::Known),
                    among => place = among.and_then(Result::err),
                }
            }
            let entry = entry?;
            let name = entry.file_name();
            let Some(fd) = name.to_str().ok().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if !process.meter.read() {
                return Ok(Read::Stopped);
            }
            count += 1;
            target.clear();
            // A descriptor that was closed meanwhile is not held.
            let Ok(link) = rustix::fs::readlinkat(fds, name, target) else {
                target = Vec::with_capacity(64);
                continue;
            };
            target = link.into_bytes();
            self.descriptor(Holder { pid, tid, fd }, &target, folder);
        }
        if let (Some(at), Some(tables)) = (place, &mut self.tables) {
            tables.insert(at, pid);
        }
        Ok(Read::All(count))
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
                Err(_) => self.unseen.blind = true,
            }
        }
    }

    fn hit(&mut self, target: Target, holder: Holder) {
        if self.wanted.contains(&target) && !(self.found)(target, holder) {
            self.wanted.remove(&target);
        }
    }
}

fn open_table(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder.join("fd"), flags, Mode::empty())?)
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
