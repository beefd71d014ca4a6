use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::{Errno, pread},
};

use super::{Cmdline, Ids, ProcFs, ProcStat, fill, gone_is_none};
use crate::{host::pidfd, model::Identity};

/// Files of one process in /proc, held open: a read costs one system call and no path walk.
///
/// Each read from the start is made anew (`seq_read_iter`, fs/seq_file.c; `proc_pid_cmdline_read`,
/// fs/proc/base.c). They stay bound to the process that they were opened of: after it was reaped
/// they say ESRCH, whoever has its pid by then (`proc_single_show`, fs/proc/base.c). They keep
/// neither the process nor its memory.
#[derive(Debug)]
pub(crate) struct Held {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    /// That never changes.
    namespace_init: bool,
    /// Where its arguments were when these files were opened, and when that was: another program
    /// has them elsewhere.
    arguments: (u64, Instant),
    stat: OwnedFd,
    status: OwnedFd,
    cmdline: OwnedFd,
    /// None where its reads may not be seen.
    io: Option<OwnedFd>,
    /// Children of the thread group leader; none without `CONFIG_PROC_CHILDREN`.
    children: Option<OwnedFd>,
}

impl Held {
    /// Descriptors that one takes at most.
    pub(crate) const DESCRIPTORS: usize = 6;

    /// Opens the files of whoever has `pid`; `None` if nobody does, or who does has ended.
    ///
    /// # Errors
    /// If one cannot be opened: no descriptor is left, or it may not be read.
    pub(crate) fn open(proc: &ProcFs, pid: u32) -> io::Result<Option<Self>> {
        let held = gone_is_none(Self::open_all(proc, pid))?;
        // That it lives says that its pid was its own: pidfd and files are of the same process.
        match held {
            Some(held) if !pidfd::has_ended(&held.pidfd)? => Ok(Some(held)),
            _ => Ok(None),
        }
    }

    fn open_all(proc: &ProcFs, pid: u32) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd::open(pid)?);
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(proc.path(pid, ""), folder, Mode::empty())?;
        // All below one folder: of the same process, or gone.
        let open =
            |name: &str| openat(&folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut held = Self {
            pid,
            pidfd,
            namespace_init: false,
            arguments: (0, Instant::now()),
            stat: open("stat")?,
            status: open("status")?,
            cmdline: open("cmdline")?,
            io: open("io").ok(),
            children: open(&format!("task/{pid}/children")).ok(),
        };
        held.namespace_init = held.read_ids()?.ok_or(Errno::SRCH)?.namespace_init;
        let proc_stat = held.stat(proc)?.ok_or(Errno::SRCH)?;
        held.arguments.0 = proc_stat.arg_start;
        Ok(held)
    }

    /// Whether it has executed nothing since its files were opened, at least `ago` before. Every
    /// exec is given an address space of its own, with its arguments at a random place.
    pub(crate) fn executed_nothing(&self, stat: &ProcStat, ago: Duration) -> bool {
        let (arg_start, opened) = self.arguments;
        arg_start != 0 && stat.arg_start == arg_start && opened.elapsed() >= ago
    }

    /// Its pidfd.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// As [`ProcFs::stat`]; `None` once the process has been reaped.
    pub(crate) fn stat(&self, proc: &ProcFs) -> io::Result<Option<ProcStat>> {
        let mut line = [0; ProcStat::LINE_MAX];
        match gone_is_none(pread(&self.stat, &mut line, 0).map_err(io::Error::from))? {
            Some(len) => proc.parse_stat(self.pid, &line[..len]).map(Some),
            None => Ok(None),
        }
    }

    /// As [`ProcFs::ids`]; where the kernel tells the user id of a pidfd it makes no page of text
    /// of the process for it.
    pub(crate) fn ids(&self) -> io::Result<Option<Ids>> {
        match pidfd::uid(&self.pidfd) {
            Some(uid) => Ok(Some(Ids { uid, namespace_init: self.namespace_init })),
            None => self.read_ids(),
        }
    }

    fn read_ids(&self) -> io::Result<Option<Ids>> {
        let mut text = [0; Ids::TEXT_MAX];
        let len = gone_is_none(pread(&self.status, &mut text, 0).map_err(io::Error::from))?;
        Ok(len.and_then(|len| Ids::parse(self.pid, &text[..len])))
    }

    /// As [`ProcFs::io_syscr`]; `None` where it cannot be read.
    pub(crate) fn io_syscr(&self) -> Option<u64> {
        let mut text = [0; 512];
        let len = pread(self.io.as_ref()?, &mut text, 0).ok()?;
        super::field(&text[..len], b"syscr:").and_then(super::number)
    }

    /// As [`ProcFs::cmdline`].
    pub(crate) fn cmdline(&self, max: usize) -> io::Result<Option<Cmdline>> {
        let mut bytes = Vec::new();
        let read = |room: &mut [u8], at: usize| Ok(pread(&self.cmdline, room, at as u64)?);
        let truncated = gone_is_none(fill(&mut bytes, max, read))?;
        Ok(truncated.map(|truncated| Cmdline { bytes, truncated }))
    }

    /// Children of a process of one thread, as [`ProcFs::children`]; `None` where they have to be
    /// read there. A process of more threads has children of each.
    pub(crate) fn children(&self, threads: u32) -> Option<Vec<u32>> {
        let children = self.children.as_ref().filter(|_| threads == 1)?;
        let mut text = [0; 1024];
        // A longer list, or an error, is for the other way.
        let len = pread(children, &mut text, 0).ok().filter(|len| *len < text.len())?;
        Some(super::pids_in(&text[..len]).collect())
    }

    /// Whether it is the process with this identity, and has not ended.
    pub(crate) fn is(&self, proc: &ProcFs, id: Identity) -> bool {
        matches!(self.stat(proc), Ok(Some(stat)) if proc.is_same(id, &stat) && !stat.ended())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::host::proc::ARGV_SEARCHED_BYTES;

    /// A shell that waits for a line where its script says `read`; and what it said first.
    fn shell(script: &str) -> (Child, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }

    #[test]
    fn each_read_is_made_anew_and_of_the_same_process() {
        let (mut child, inner) = shell("sleep 60 & echo $!; read line; exec sleep 61");
        let proc = ProcFs::default();
        let pid = child.id();
        let held = Held::open(&proc, pid).unwrap().unwrap();
        let stat = held.stat(&proc).unwrap().unwrap();
        let id = Identity { pid, start_ns: stat.start_ns };
        assert!(held.is(&proc, id) && !held.is(&proc, Identity { start_ns: 0, ..id }));
        let ids = proc.ids(pid).unwrap();
        assert_eq!((held.ids().unwrap(), held.read_ids().unwrap()), (ids, ids));
        let tokens = |cmdline: Option<Cmdline>| {
            let last = cmdline?.tokens().last().map(|token| token.to_vec());
            last.map(|token| String::from_utf8(token).unwrap())
        };
        let here = || tokens(held.cmdline(ARGV_SEARCHED_BYTES).unwrap());
        assert!(here().unwrap().ends_with("sleep 61"));
        if held.children.is_some() {
            assert_eq!(held.children(1), Some(vec![inner.parse().unwrap()]));
        }
        assert_eq!(held.children(2), None, "its other threads have theirs");

        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        while here().as_deref() != Some("61") {}
        let orphan = rustix::process::Pid::from_raw(inner.parse().unwrap()).unwrap();
        rustix::process::kill_process(orphan, rustix::process::Signal::KILL).unwrap();
        child.kill().unwrap();
        while held.is(&proc, id) {}
        assert!(held.stat(&proc).unwrap().unwrap().ended(), "a zombie");
        child.wait().unwrap();
        assert_eq!(held.stat(&proc).unwrap(), None);
        assert_eq!(held.ids().unwrap(), None);
        assert_eq!(held.cmdline(4096).unwrap(), None);
        assert!(Held::open(&proc, pid).unwrap().is_none());
    }

    #[test]
    fn a_long_argument_area_is_read_to_its_end() {
        let long = "x".repeat(20_000);
        let mut child = Command::new("/bin/sh");
        let mut child = child.args(["-c", "echo; read line", &long]);
        child = child.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        let held = Held::open(&ProcFs::default(), child.id()).unwrap().unwrap();
        for max in [100, 4096, 5000, 20_000, ARGV_SEARCHED_BYTES] {
            let expected = ProcFs::default().cmdline(child.id(), max).unwrap();
            assert_eq!(held.cmdline(max).unwrap(), expected, "{max}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
