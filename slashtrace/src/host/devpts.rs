use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat2, statx,
};

use crate::host::proc::{ProcFs, ProcStat, Root, itself};

/// `DEVPTS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// Major number of PTY slaves; the minor number is the index, however large
/// (`UNIX98_PTY_SLAVE_MAJOR`, include/uapi/linux/major.h; `devpts_pty_new`, fs/devpts/inode.c).
const PTS_MAJOR: u32 = 136;

/// A devpts that is mounted somewhere, held open: whatever its path leads to later, what is asked is
/// asked of this one.
#[derive(Debug)]
pub(crate) struct Devpts {
    folder: OwnedFd,
    instance: u64,
}

impl Devpts {
    /// The one that is mounted at `path`.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::open_on(rustix::fs::open(path, flags, Mode::empty()).ok()?)
    }

    /// The one that a process sees at /dev/pts.
    pub(crate) fn of(proc: &ProcFs, pid: u32) -> Option<Self> {
        Self::open_on(Root::of(proc, pid).ok()?.folder(Path::new("dev/pts")).ok()?)
    }

    /// A folder that is to be taken for an instance.
    #[cfg(test)]
    pub(crate) fn made_up(path: &Path, instance: u64) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { folder: rustix::fs::open(path, flags, Mode::empty()).unwrap(), instance }
    }

    fn open_on(folder: OwnedFd) -> Option<Self> {
        let kind = rustix::fs::fstatfs(&folder).ok()?;
        (kind.f_type as u64 == DEVPTS_MAGIC).then_some(())?;
        let instance = rustix::fs::fstat(&folder).ok()?.st_dev;
        Some(Self { folder, instance })
    }

    /// Its instance: `st_dev` of stat(2).
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// When the node of a terminal was last changed: made, or given to another user (`st_ctime`).
    pub(crate) fn changed(&self, index: u32) -> Option<Timestamp> {
        let name = index.to_string();
        let stat = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Timestamp::new(stat.st_ctime, i32::try_from(stat.st_ctime_nsec).ok()?).ok()
    }

    /// A path that leads to it and nowhere else.
    pub(crate) fn path(&self) -> PathBuf {
        itself(&self.folder)
    }

    /// The user that a terminal was made for: grantpt(3), and who logs somebody in, give the node
    /// to them. None if it is gone, or if something was mounted over it where this was looked at,
    /// be it another node of the same devpts.
    pub(crate) fn owner(&self, index: u32) -> Option<u32> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV;
        let node = openat2(&self.folder, index.to_string(), flags, Mode::empty(), resolve).ok()?;
        let node = rustix::fs::fstat(&node).ok()?;
        let same = node.st_dev == self.instance && node.st_rdev == device(index);
        same.then_some(node.st_uid)
    }

    /// The indices that are open on it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn list(&self) -> io::Result<BTreeSet<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(self.folder.as_fd(), ".", flags, Mode::empty())?;
        let entries = Dir::new(folder)?.filter_map(Result::ok);
        Ok(entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect())
    }
}

/// The instance of the terminal with this index that a process has as controlling terminal: the
/// kernel tells the index alone, and what is mounted at the process's /dev/pts may be another
/// devpts (a sandbox that was started from a terminal keeps that).
///
/// A standard stream of the process, or of the leader of its session, that is open on a terminal of
/// this index shows the instance. Else it is what both see at /dev/pts, if that is the same.
pub(crate) fn instance_of_tty(proc: &ProcFs, stat: &ProcStat, index: u32) -> Option<u64> {
    let leader = proc.stat(stat.sid).ok()??;
    let has_it = |stat: &ProcStat| stat.terminal.is_some_and(|terminal| terminal.index == index);
    if !has_it(stat) || !has_it(&leader) {
        return None;
    }
    let pids = BTreeSet::from([stat.pid, leader.pid]);
    let shown: BTreeSet<u64> = pids.iter().flat_map(|pid| streams(proc, *pid, index)).collect();
    let seen = || pids.iter().map(|pid| Some(Devpts::of(proc, *pid)?.instance())).collect();
    let all: BTreeSet<Option<u64>> =
        if shown.is_empty() { seen() } else { shown.into_iter().map(Some).collect() };
    let mut all = all.into_iter();
    all.next().filter(|_| all.next().is_none())?
}

/// The devpts instances of a process's standard streams that are open on a terminal of this index.
fn streams(proc: &ProcFs, pid: u32, index: u32) -> Vec<u64> {
    let open = (0..3).filter_map(|fd| numbers(&proc.path(pid, "fd").join(fd.to_string())));
    open.filter(|(_, of)| *of == device(index)).map(|(on, _)| on).collect()
}

/// The file system that a file is on, and the device that it stands for. Whoever serves the file
/// system (a network, a user's program) is not asked, so none is waited for.
pub(crate) fn numbers(path: &Path) -> Option<(u64, u64)> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let file = statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    let on = makedev(file.stx_dev_major, file.stx_dev_minor);
    Some((on, makedev(file.stx_rdev_major, file.stx_rdev_minor)))
}

/// The device that a slave's node stands for.
fn device(index: u32) -> u64 {
    makedev(PTS_MAJOR, index)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::fs::symlink,
        process::{Command, Stdio},
    };

    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

    use super::*;
    use crate::host::proc::fake::{Fake, FakeProc};

    /// `/dev/pts` below another user's root may be a link to anywhere.
    #[test]
    fn a_link_leads_to_no_devpts_outside_of_the_root() {
        let Some(here) = Devpts::at(Path::new("/dev/pts")) else {
            eprintln!("SKIPPED: no devpts on /dev/pts");
            return;
        };
        assert!(Devpts::at(Path::new("/dev")).is_none(), "that is another file system");
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("dev")).unwrap();
        symlink("/dev/pts", inside.path().join("dev/pts")).unwrap();
        let fake = FakeProc::new();
        for (pid, root) in [(10, inside.path()), (11, Path::new("/"))] {
            fake.put(&Fake { pid, ..Fake::default() });
            symlink(root, fake.dir(pid).join("root")).unwrap();
        }
        assert!(Devpts::of(&fake.proc(), 10).is_none());
        assert_eq!(Devpts::of(&fake.proc(), 11).unwrap().instance(), here.instance());
    }

    /// In a mount namespace of his own anybody may mount a node of his over another's.
    #[test]
    fn a_node_that_was_mounted_over_another_names_no_owner() {
        let Some(here) = Devpts::at(Path::new("/dev/pts")) else { return };
        let open = || {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            unlockpt(&master).unwrap();
            let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
            let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
            (master, slave, index)
        };
        let (his, theirs) = (open(), open());
        let script = "mount --bind \"$1\" \"$2\" && echo && read line";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", &his.1, &theirs.1]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            eprintln!("SKIPPED: not root: no mount namespace can be made");
        } else {
            let there = Devpts::of(&ProcFs::default(), child.id()).unwrap();
            assert_eq!(there.instance(), here.instance());
            assert!(here.owner(theirs.2).is_some());
            assert_eq!(there.owner(theirs.2), None);
            assert_eq!(there.owner(his.2), here.owner(his.2));
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// A sandbox with a devpts of its own is started from a terminal, and keeps that.
    #[test]
    fn a_stream_shows_which_terminal_it_is() {
        let Some(here) = Devpts::at(Path::new("/dev/pts")) else { return };
        let Ok(master) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY) else { return };
        unlockpt(&master).unwrap();
        let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
        assert!(here.list().unwrap().contains(&index));
        assert!(here.owner(index).is_some() && here.owner(u32::MAX).is_none());

        let fake = FakeProc::new();
        let empty = tempfile::tempdir().unwrap();
        let tty_nr = (index & !0xff) << 12 | PTS_MAJOR << 8 | index & 0xff;
        // 10 leads the session in which 20 runs.
        for pid in [10, 20] {
            fake.put(&Fake { pid, sid: 10, tty_nr, ..Fake::default() });
        }
        let root = |pid: u32, at: &Path| {
            let link = fake.dir(pid).join("root");
            let _ = std::fs::remove_file(&link);
            symlink(at, link).unwrap();
        };
        let found = || {
            let proc = fake.proc();
            instance_of_tty(&proc, &proc.stat(20).unwrap().unwrap(), index)
        };
        root(10, Path::new("/"));
        root(20, empty.path());
        assert_eq!(found(), None, "they see different things at /dev/pts");
        root(20, Path::new("/"));
        assert_eq!(found(), Some(here.instance()));
        root(20, empty.path());
        assert_eq!(device(300), makedev(136, 300));
        fake.fd(10, 0, &slave, "02");
        assert_eq!(found(), Some(here.instance()), "the leader's stdin");
        fake.put(&Fake { pid: 10, sid: 10, tty_nr: tty_nr + 1, ..Fake::default() });
        assert_eq!(found(), None, "it has another terminal");
    }
}
