//! Reads /proc: what the kernel programs cannot tell, and what was there before them.
//! `stat` is one process, `clock` whether it ran, `syscall` what it waits for, `held` its files held
//! open, `book` gives it its identity, `fds` says what a descriptor is and `ends` who holds its other
//! end, `budget` how much of each user's processes may be read and `unread` what is not known where
//! that was too much, `key` reads a session's key, `root` opens what a process sees, `path` names files in
//! /proc without the heap, `scan` and `snapshot` turn processes into observations.
//! May touch: /proc (read only, and never a file behind an fd link), and files below a process's
//! root where its callers name them, `model`, `profile`, `redact`.

mod book;
mod budget;
mod clock;
mod ends;
#[cfg(test)]
pub(crate) mod fake;
mod fds;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod held;
mod key;
mod path;
mod root;
mod scan;
mod snapshot;
mod stat;
mod syscall;
mod unread;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    param,
};

pub use book::IdentityBook;
pub(crate) use budget::{Allowance, Subordinates};
use budget::{Meter, ROOT, Reads};
pub use ends::{Holder, Target, WriteEnds};
pub use fds::FdEnd;
pub(crate) use held::Held;
pub(crate) use root::{Links, Root, itself, read_itself};
pub use scan::{Scan, Seen};
pub use snapshot::{Resync, inferred_exit, resync, snapshot, snapshot_of};
pub use stat::ProcStat;
pub use unread::{Concern, Unread, Unseen};

use crate::model::{Identity, Memory};

/// How many bytes of an argument area are searched for a worker's tokens: the kernel's limit for
/// one argument (`MAX_ARG_STRLEN`, 32 pages of 4 KiB, include/uapi/linux/binfmts.h), so that a
/// worker is only overlooked behind arguments that are longer in sum.
pub const ARGV_SEARCHED_BYTES: usize = 128 * 1024;

/// Target of /proc/PID/ns/pid in the machine's first pid namespace (`PROC_PID_INIT_INO`,
/// include/linux/proc_ns.h, which is part of the kernel's ABI).
pub const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// More than an argument area can hold (execve(2): three quarters of `_STK_LIM`, 6 MiB).
pub(crate) const ARGV_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A mounted proc file system.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
    tick_ns: u64,
    page_kib: u64,
    /// Whether the pids in it are those that system calls take here.
    own_pids: bool,
    /// What may be read of each user's processes; the same for every clone.
    reads: Arc<Reads>,
}

/// One entry of the list of processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Thread group id.
    pub pid: u32,
    /// Inode of its folder. procfs gives each process that is looked up a new number and drops
    /// the folder when the process is reaped (`proc_flush_pid`, fs/proc/base.c), so the same
    /// number is the same process; another number may be, too (memory pressure drops folders).
    pub inode: u64,
}

/// The argument area of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cmdline {
    /// Its bytes, up to the limit that was asked for. Empty for a kernel thread or a zombie.
    pub bytes: Vec<u8>,
    /// Whether there is more.
    pub truncated: bool,
}

impl Cmdline {
    /// Its whole tokens. The last one is left out where it was cut off: half a token matches
    /// nothing and names no session.
    pub fn tokens(&self) -> Vec<&[u8]> {
        let mut tokens = crate::profile::tokens_of(&self.bytes);
        if self.truncated && !self.bytes.ends_with(&[0]) {
            tokens.pop();
        }
        tokens
    }
}

/// Ids of a process (/proc/PID/status).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ids {
    /// Real user id. The owner of /proc/PID is the *effective* one, or root for a process that is
    /// not dumpable (proc_pid_status(5)), which would hide whose worker it is.
    pub uid: u32,
    /// Whether it is pid 1 of the innermost pid namespace it is in (last value of `NSpid`).
    pub namespace_init: bool,
}

impl Ids {
    /// Longer than /proc/PID/status is.
    const TEXT_MAX: usize = 8192;

    fn parse(pid: u32, text: &[u8]) -> Option<Self> {
        let uid = field(text, b"Uid:").and_then(|value| number(first_word(value)))?;
        // Absent before Linux 4.1 and in kernels without pid namespaces.
        let namespace_pid = field(text, b"NSpid:").map_or(Some(u64::from(pid)), |value| {
            value.split(u8::is_ascii_whitespace).rfind(|word| !word.is_empty()).and_then(number)
        });
        Some(Self { uid: uid as u32, namespace_init: pid == 1 || namespace_pid == Some(1) })
    }
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl ProcFs {
    /// The proc file system at `root`: `/proc`, or a made-up one in tests. Only its `self` is read.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            own_pids: clock::has_own_pids(&root),
            root,
            tick_ns: 1_000_000_000 / param::clock_ticks_per_second().max(1),
            page_kib: param::page_size() as u64 / 1024,
            reads: Arc::new(Reads::new(Allowance::SENSOR)),
        }
    }

    /// The same with a budget of its own.
    pub(crate) fn with_allowance(self, allowance: Allowance) -> Self {
        Self { reads: Arc::new(Reads::new(allowance)), ..self }
    }

    /// The same with a budget of its own, from which only reads are taken, and no time.
    #[cfg(test)]
    pub(crate) fn with_counted(self, allowance: Allowance) -> Self {
        Self { reads: Arc::new(Reads::counted(allowance)), ..self }
    }

    /// Begins to read something of a process that can be very large. Each thing read is to be said
    /// to the meter; `None` if nothing may be read because its user is over its budget.
    ///
    /// # Errors
    /// If it is gone (ENOENT), or may not be looked at.
    pub(crate) fn meter(&self, pid: u32) -> io::Result<Option<Meter<'_>>> {
        let owner = rustix::fs::stat(self.path(pid, ""))?.st_uid;
        Ok(self.meter_of(self.real_uid(pid, owner)?))
    }

    fn meter_of(&self, uid: u32) -> Option<Meter<'_>> {
        self.reads.meter(uid)
    }

    /// Whose account a process is on, given the owner of its files in /proc: that is its effective
    /// user id, and root for one that is not dumpable (`task_dump_owner`, fs/proc/base.c).
    fn real_uid(&self, pid: u32, owner: u32) -> io::Result<u32> {
        if owner != ROOT && self.own_pids {
            return Ok(owner);
        }
        Ok(self.ids(pid)?.ok_or(Errno::NOENT)?.uid)
    }

    /// Length of a clock tick (`sysconf(_SC_CLK_TCK)`) in ns: start times in /proc are whole ticks.
    pub fn tick_ns(&self) -> u64 {
        self.tick_ns
    }

    /// The processes (thread groups) there are, in no particular order. No process is read for it.
    pub fn processes(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(512);
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid {
                entries.push(Entry { pid, inode: entry.ino() });
            }
        }
        Ok(entries)
    }

    /// Ids of the thread groups there are, ascending.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids: Vec<u32> = self.processes()?.iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Children of a process, of all its threads: from /proc/PID/task/TID/children (proc_tid_children(5),
    /// `CONFIG_PROC_CHILDREN`, which checkpoint/restore asks for), or else from the parents of all
    /// processes. A child that is forked or ends meanwhile may be missing.
    ///
    /// # Errors
    /// If they may not be read, or its user is over its budget.
    pub fn children(&self, pid: u32) -> io::Result<Vec<u32>> {
        let tasks = self.path(pid, "task");
        let Some(meter) = gone_is_none(self.meter(pid))? else { return Ok(Vec::new()) };
        let mut meter = meter.ok_or_else(over_budget)?;
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        for task in gone_is_none(fs::read_dir(&tasks))?.into_iter().flatten() {
            let path = task?.path().join("children");
            if !meter.read() {
                return Err(over_budget());
            }
            buffer.clear();
            match open(&path).and_then(|mut file| file.read_to_end(&mut buffer)) {
                Ok(_) => {}
                // The thread has ended, or there is no such file on this kernel.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if path.parent().is_some_and(Path::exists) {
                        return self.children_by_parent(pid);
                    }
                    continue;
                }
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            }
            found.extend(pids_in(&buffer));
        }
        Ok(found)
    }

    fn children_by_parent(&self, pid: u32) -> io::Result<Vec<u32>> {
        let is_child =
            |&other: &u32| matches!(self.stat(other), Ok(Some(stat)) if stat.ppid == pid);
        Ok(self.pids()?.into_iter().filter(is_child).collect())
    }

    /// State, parent, start time and size of a process; `None` if there is none of that pid.
    pub fn stat(&self, pid: u32) -> io::Result<Option<ProcStat>> {
        let mut line = [0; ProcStat::LINE_MAX];
        let Some(len) = self.read_small(pid, "stat", &mut line)? else {
            return Ok(None);
        };
        self.parse_stat(pid, &line[..len]).map(Some)
    }

    fn parse_stat(&self, pid: u32, line: &[u8]) -> io::Result<ProcStat> {
        ProcStat::parse(line, self.tick_ns, self.page_kib).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}/{pid}/stat has an unknown form", self.root.display()),
            )
        })
    }

    /// Whether `stat` is of the process with this identity, and not of one that got its pid later.
    pub fn is_same(&self, identity: Identity, stat: &ProcStat) -> bool {
        identity.pid == stat.pid && identity.start_ns / self.tick_ns == stat.start_ns / self.tick_ns
    }

    /// Real user id and place in its pid namespace; `None` if the process is gone.
    pub fn ids(&self, pid: u32) -> io::Result<Option<Ids>> {
        let mut text = [0; Ids::TEXT_MAX];
        let len = self.read_small(pid, "status", &mut text)?;
        Ok(len.and_then(|len| Ids::parse(pid, &text[..len])))
    }

    /// The argument area, up to `max` bytes; `None` if the process is gone. A program that wrote a
    /// title over its arguments shows that title.
    pub fn cmdline(&self, pid: u32, max: usize) -> io::Result<Option<Cmdline>> {
        let mut bytes = Vec::new();
        Ok(self.cmdline_into(pid, max, &mut bytes)?.map(|truncated| Cmdline { bytes, truncated }))
    }

    /// As [`Self::cmdline`], into a buffer that is used again: whether there is more than `max`.
    pub fn cmdline_into(
        &self,
        pid: u32,
        max: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<bool>> {
        buffer.clear();
        let file = open(&self.path(pid, "cmdline"));
        gone_is_none(file.and_then(|mut file| fill(buffer, max, |room, _| file.read(room))))
    }

    /// True length of the argument area in bytes; `None` if the process is gone.
    pub fn cmdline_bytes(&self, pid: u32) -> io::Result<Option<u64>> {
        let count = || -> io::Result<u64> {
            let file = open(&self.path(pid, "cmdline"))?;
            io::copy(&mut file.take(ARGV_BYTES_MAX as u64), &mut io::sink())
        };
        gone_is_none(count())
    }

    /// Read system calls of the whole process so far (`syscr`, proc_pid_io(5)); `None` if it is
    /// gone. Only its owner and root may read it.
    pub fn io_syscr(&self, pid: u32) -> io::Result<Option<u64>> {
        let mut text = [0; 512];
        let len = self.read_small(pid, "io", &mut text)?;
        Ok(len.and_then(|len| field(&text[..len], b"syscr:")).and_then(number))
    }

    /// Proportional set size in KiB (`smaps_rollup`: the kernel walks the page tables for it, a
    /// millisecond or more per process); `None` if it is gone, or its user is over its budget. Only
    /// its owner and root may read it.
    pub fn pss_kib(&self, pid: u32) -> io::Result<Option<u64>> {
        let Some(_meter) = gone_is_none(self.meter(pid))?.flatten() else { return Ok(None) };
        let mut text = [0; 4096];
        let len = self.read_small(pid, "smaps_rollup", &mut text)?;
        Ok(len
            .and_then(|len| field(&text[..len], b"Pss:"))
            .and_then(|value| number(first_word(value))))
    }

    /// The machine's memory.
    pub fn meminfo(&self) -> io::Result<Memory> {
        let text = fs::read(self.root.join("meminfo"))?;
        let kib = |name: &[u8]| field(&text, name).and_then(|value| number(first_word(value)));
        match (kib(b"MemTotal:"), kib(b"MemAvailable:")) {
            (Some(total_kib), Some(available_kib)) => Ok(Memory {
                total_kib,
                available_kib,
                swap_total_kib: kib(b"SwapTotal:").unwrap_or(0),
                swap_free_kib: kib(b"SwapFree:").unwrap_or(0),
            }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}/meminfo has no MemTotal or MemAvailable", self.root.display()),
            )),
        }
    }

    /// Whether two processes run the same executable file; `None` where that cannot be seen (gone,
    /// a zombie, or another user's). Compares file system and inode, so a file that was replaced on
    /// disk is another one.
    pub fn exe_same(&self, a: u32, b: u32) -> Option<bool> {
        let exe = |pid| rustix::fs::stat(self.path(pid, "exe")).ok();
        let (a, b) = (exe(a)?, exe(b)?);
        Some((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where something of a process is.
    pub(crate) fn path(&self, pid: u32, name: &str) -> PathBuf {
        let mut path = self.root.join(pid.to_string());
        path.push(name);
        path
    }

    /// Reads a file that fits into `buffer`; what does not fit is left out.
    fn read_small(&self, pid: u32, name: &str, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        gone_is_none(self.short(pid, name).and_then(|path| path.read(buffer)))
    }
}

/// One read is enough: these files are one record, handed over whole if there is room for it
/// (`single_open`, fs/seq_file.c).
pub(super) fn read_up_to(path: &Path, buffer: &mut [u8]) -> io::Result<usize> {
    open(path)?.read(buffer)
}

/// Reads an argument area into an empty buffer, up to `max` bytes: whether there is more. `read` is
/// given the place to read to and how much was read before.
fn fill(
    buffer: &mut Vec<u8>,
    max: usize,
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<bool> {
    let mut len = 0;
    while len <= max {
        // One page holds nearly every argument area; a long one is read in ever larger pieces.
        buffer.resize((2 * len).max(4096).min(max + 1), 0);
        len += read(&mut buffer[len..], len)?;
        // The area is handed over as far as there is room (`get_mm_cmdline`, fs/proc/base.c): less
        // is its end.
        if len < buffer.len() {
            break;
        }
    }
    buffer.truncate(len.min(max));
    Ok(len > max)
}

/// Opens a file to read it, by one system call: that of musl's open(3) are two.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// A process that ends while it is read is no error: `open` says ENOENT, `read` says ESRCH.
pub(super) fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// That something of a process is not read: others' would not be.
pub(crate) fn over_budget() -> io::Error {
    io::Error::other("the processes of its user take too long to read")
}

fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

/// What stands behind `name` (with its colon) at the beginning of a line.
pub(super) fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// The pids in a list of them.
fn pids_in(text: &[u8]) -> impl Iterator<Item = u32> {
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.filter_map(number).filter_map(|pid| u32::try_from(pid).ok())
}

fn first_word(value: &[u8]) -> &[u8] {
    value.split(u8::is_ascii_whitespace).next().unwrap_or_default()
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = u64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?);
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests;
