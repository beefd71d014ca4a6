use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    task::{Context, Poll, Waker},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::host::{devpts::Devpts, proc::ProcFs};

/// Instances of devpts that are watched: each takes one of root's inotify watches.
const WATCHES_MAX: usize = 256;
/// Those of them that are watched for the processes of one user: nobody else's are to go without.
const OF_USER_MAX: usize = 64;

/// What inotify told: watch, what happened, index.
pub(super) type Told = (i32, ReadFlags, Option<u32>);

/// A watched devpts instance. It is not held open, which would keep a container's alive.
#[derive(Debug)]
struct Watch {
    instance: u64,
    /// Who is known to see it at /dev/pts.
    seen_by: Viewer,
    /// The user of the process that it was found through; none for slashtrace's own.
    uid: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Viewer {
    /// Slashtrace itself.
    Here,
    Process(u32),
    /// Nobody who lives.
    Nobody,
}

/// What came of [`Watches::add`].
#[derive(Debug)]
pub(super) enum Added {
    /// It is watched now, and these indices are open on it.
    Now(BTreeSet<u32>),
    /// It was watched already, or what follows was said of it before.
    No,
    /// It cannot be watched.
    Refused(io::Error),
}

/// The devpts instances that inotify(7) watches.
#[derive(Debug)]
pub(super) struct Watches {
    proc: ProcFs,
    inotify: Option<AsyncFd<OwnedFd>>,
    all: BTreeMap<i32, Watch>,
    refused: BTreeSet<u64>,
}

impl Watches {
    /// None yet, and why there can be none where that is so.
    pub(super) fn new(proc: ProcFs) -> (Self, Option<io::Error>) {
        let started = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|fd| match tokio::runtime::Handle::try_current() {
                Ok(_) => Ok(fd),
                // Nobody would ever wait for it.
                Err(error) => Err(io::Error::other(error)),
            })
            // SAFETY: an `OwnedFd` is always the same descriptor, and stays open until the `AsyncFd`
            // that owns it is dropped.
            .and_then(|fd| unsafe { AsyncFd::register(fd) }.map_err(Into::into));
        let (inotify, why_not) = match started {
            Ok(fd) => (Some(fd), None),
            Err(error) => (None, Some(error)),
        };
        (Self { proc, inotify, all: BTreeMap::new(), refused: BTreeSet::new() }, why_not)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Waits until the kernel has something to tell. Cancel-safe: it takes nothing.
    pub(super) async fn readable(&self) {
        match &self.inotify {
            Some(fd) if !self.all.is_empty() => {
                // An error is found again by the reading that follows.
                let _ = fd.readable().await;
            }
            _ => pending().await,
        }
    }

    /// Takes what inotify told.
    pub(super) fn read(&self, told: &mut Vec<Told>) {
        let Some(fd) = &self.inotify else { return };
        // Taken before the reading, so that whatever comes after makes it ready again.
        let mut context = Context::from_waker(Waker::noop());
        let ready = fd.poll_read_ready(&mut context);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            told.push((event.wd(), event.events(), name.and_then(|name| name.parse().ok())));
        }
        if let Poll::Ready(Ok(mut ready)) = ready {
            ready.clear_ready();
        }
    }

    /// The instances.
    pub(super) fn instances(&self) -> BTreeSet<u64> {
        self.all.values().map(|watch| watch.instance).collect()
    }

    /// The instance that a watch is on.
    pub(super) fn instance(&self, wd: i32) -> Option<u64> {
        self.all.get(&wd).map(|watch| watch.instance)
    }

    /// Watches a devpts, and lists what is open on it.
    pub(super) fn add(&mut self, devpts: &Devpts, seen_by: Option<u32>) -> Added {
        let instance = devpts.instance();
        let Some(fd) = &self.inotify else { return Added::No };
        if let Some(watch) = self.all.values_mut().find(|watch| watch.instance == instance) {
            if watch.seen_by == Viewer::Nobody
                && let Some(pid) = seen_by
            {
                watch.seen_by = Viewer::Process(pid);
            }
            return Added::No;
        }
        let uid = seen_by.and_then(|pid| Some(self.proc.ids(pid).ok()??.uid));
        let of_others = self.all.values().filter(|watch| watch.seen_by != Viewer::Here);
        let of_user = of_others.filter(|watch| watch.uid == uid).count();
        let crowd = seen_by.is_some() && uid != Some(0) && of_user >= OF_USER_MAX;
        if crowd || self.all.len() >= WATCHES_MAX {
            return self.refuse(instance, io::Error::other("as many are watched as may be"));
        }
        // What is made behind the begin of the watch is told, and what was made before is listed.
        let wd = match watch(fd, devpts) {
            Ok(wd) => wd,
            Err(errno) => return self.refuse(instance, errno.into()),
        };
        let seen_by = seen_by.map_or(Viewer::Here, Viewer::Process);
        self.all.entry(wd).or_insert(Watch { instance, seen_by, uid });
        Added::Now(devpts.list().unwrap_or_default())
    }

    /// Said once for each instance.
    fn refuse(&mut self, instance: u64, error: io::Error) -> Added {
        if self.refused.insert(instance) { Added::Refused(error) } else { Added::No }
    }

    /// A watch has ended with its devpts; its instance.
    pub(super) fn remove(&mut self, wd: i32) -> Option<u64> {
        // There is room again.
        self.refused.clear();
        self.all.remove(&wd).map(|watch| watch.instance)
    }

    /// What was told of ended watches may be lost: begins each anew. The instances whose watches had
    /// ended: another devpts has that number by now.
    pub(super) fn renew(&mut self, known: &[u32]) -> Vec<u64> {
        let Some(fd) = &self.inotify else { return Vec::new() };
        let ended = |(wd, it): (&i32, &Watch)| {
            let devpts = self.views(it.instance, known).next()?;
            let other = watch(fd, &devpts).is_ok_and(|new| new != *wd);
            other.then_some(*wd)
        };
        let ended: Vec<i32> = self.all.iter().filter_map(ended).collect();
        ended.into_iter().filter_map(|wd| self.remove(wd)).collect()
    }

    /// Has each instance have a process that sees it, among those that are known, where the one that
    /// it was seen by is gone.
    pub(super) fn look_for_viewers(&mut self, known: &[u32]) {
        let sees = |pid: u32, instance: u64| {
            Devpts::of(&self.proc, pid).is_some_and(|devpts| devpts.instance() == instance)
        };
        for watch in self.all.values_mut() {
            if let Viewer::Process(pid) = watch.seen_by
                && !sees(pid, watch.instance)
            {
                let other = known.iter().find(|pid| sees(**pid, watch.instance));
                watch.seen_by = other.map_or(Viewer::Nobody, |pid| Viewer::Process(*pid));
            }
        }
    }

    /// A watched devpts as it is seen, first by slashtrace itself, then by the process that it was
    /// found through, then by those that are known. Each may have mounted something over a node.
    pub(super) fn views(&self, instance: u64, known: &[u32]) -> impl Iterator<Item = Devpts> {
        let here = std::iter::once_with(|| Devpts::at(Path::new("/dev/pts")));
        let watch = self.all.values().find(|watch| watch.instance == instance);
        let seen_by = watch.and_then(|watch| match watch.seen_by {
            Viewer::Process(pid) => Some(pid),
            Viewer::Here | Viewer::Nobody => None,
        });
        let pids = seen_by.into_iter().chain(known.iter().copied());
        let all = here.chain(pids.map(|pid| Devpts::of(&self.proc, pid))).flatten();
        all.filter(move |devpts| devpts.instance() == instance)
    }
}

fn watch(inotify: &AsyncFd<OwnedFd>, devpts: &Devpts) -> rustix::io::Result<i32> {
    let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
    inotify::add_watch(inotify.get_ref(), devpts.path(), flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::proc::fake::{FAKE, Fake, FakeProc};

    /// Anybody can make instances of devpts, as many as they like.
    #[tokio::test]
    async fn one_user_leaves_room_for_others() {
        let fake = FakeProc::new();
        for pid in [10, 11] {
            fake.put(&Fake { pid, ..FAKE });
        }
        std::fs::write(fake.dir(11).join("status"), "Uid:\t1001\t0\t0\t0\nNSpid:\t11\n").unwrap();
        let (mut watches, why_not) = Watches::new(fake.proc());
        assert!(why_not.is_none(), "{why_not:?}");
        let folders: Vec<_> = (0..OF_USER_MAX + 2).map(|_| tempfile::tempdir().unwrap()).collect();
        let devpts = |at: usize| Devpts::made_up(folders[at].path(), at as u64);
        let mut add = |at: usize, pid: u32| match watches.add(&devpts(at), Some(pid)) {
            Added::Now(_) => "now",
            Added::No => "no",
            Added::Refused(_) => "refused",
        };
        for at in 0..OF_USER_MAX {
            assert_eq!(add(at, 10), "now", "{at}");
        }
        let (one_more, another) = (OF_USER_MAX, OF_USER_MAX + 1);
        assert_eq!(add(0, 10), "no", "it is watched");
        assert_eq!(add(one_more, 10), "refused");
        assert_eq!(add(one_more, 10), "no", "said once");
        assert_eq!(add(another, 11), "now");
        assert_eq!(watches.instances().len(), OF_USER_MAX + 1);

        // A folder that is removed ends its watch, which makes room.
        std::fs::remove_dir(folders[0].path()).unwrap();
        let mut told = Vec::new();
        watches.read(&mut told);
        let ended = told.iter().find(|(_, flags, _)| flags.contains(ReadFlags::IGNORED));
        assert_eq!(watches.remove(ended.expect("it is told").0), Some(0));
        assert!(matches!(watches.add(&devpts(one_more), Some(10)), Added::Now(_)));
    }
}
