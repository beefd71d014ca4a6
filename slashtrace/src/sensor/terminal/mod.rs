//! PTYs as inotify(7) on devpts tells of them: their slave node is made by `devpts_pty_new` and
//! removed by `devpts_pty_kill` at the last close of the master, even while an orphan holds the
//! slave. `look` finds out who holds and uses one, and which session its process names; `opener`
//! who above a worker opens terminals for sessions.
//! May touch: the devpts mounts, /proc through `proc`; of an environment the one variable that the
//! profile names.

mod look;
mod opener;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    task::{Context, Poll, Waker},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use slashtrace_ebpf::TerminalKey;
use tokio::io::unix::AsyncFd;

use self::opener::Openers;
use super::{clock::boottime_ns, proc::ProcFs};
use crate::{
    model::{
        Body, Capability, Gap, GapReason, Identity, Observation, Process, Role, Source, Spawn,
        TerminalEvent, TerminalState,
    },
    profile::TerminalRule,
};

/// `DEVPTS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// Terminals that one devpts instance can have (`NR_UNIX98_PTY_MAX`, include/linux/pty.h, is
/// larger; `kernel.pty.max` is 4096), in all instances together.
const OPEN_MAX: usize = 16_384;

/// An instance (`st_dev` of its mount) and an index on it.
pub(super) type Place = (u64, u32);

/// The instance that the kernel's own number of a device stands for (`MKDEV`, which has 20 bits for
/// the minor number; `st_dev` of stat(2) has them in two parts).
pub(super) fn instance_of(device: u32) -> u64 {
    rustix::fs::makedev(device >> 20, device & 0xf_ffff)
}

/// A place as the kernel programs name it.
pub(super) fn key_of((instance, index): Place) -> TerminalKey {
    let (major, minor) = (rustix::fs::major(instance), rustix::fs::minor(instance));
    TerminalKey { device: major << 20 | minor, index }
}

/// What inotify told: watch, what happened, index.
pub(super) type Told = (i32, ReadFlags, Option<u32>);

/// An open terminal.
#[derive(Debug)]
struct Open {
    opened_ns: u64,
    source: Source,
    /// What was told of it, once it was related to a worker.
    told: Option<TerminalEvent>,
}

/// A watched devpts instance.
#[derive(Debug)]
struct Watch {
    instance: u64,
    path: PathBuf,
}

/// Watches PTYs, and tells of those that a worker may belong to.
#[derive(Debug)]
pub(super) struct TerminalWatch {
    inotify: Option<AsyncFd<OwnedFd>>,
    why_not: String,
    proc: ProcFs,
    rule: Option<TerminalRule>,
    watches: BTreeMap<i32, Watch>,
    open: BTreeMap<Place, Open>,
    /// What inotify told and was not applied yet.
    held: Vec<Told>,
    /// Which terminals are told of by now, and which no more, since that was asked for.
    changes: Vec<(bool, Place)>,
    /// Parents of workers, and who opens terminals for sessions above them: whose masters are
    /// looked for.
    gateways: BTreeMap<u32, Process>,
    openers: Openers,
}

impl TerminalWatch {
    /// Watches the devpts of this mount namespace; where there is none it watches nothing.
    pub(super) fn start(proc: ProcFs, rule: Option<TerminalRule>) -> Self {
        let mut watch = Self {
            inotify: None,
            why_not: String::new(),
            proc,
            openers: Openers::new(rule.as_ref()),
            rule,
            watches: BTreeMap::new(),
            open: BTreeMap::new(),
            held: Vec::new(),
            changes: Vec::new(),
            gateways: BTreeMap::new(),
        };
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
        match started {
            Ok(fd) => watch.inotify = Some(fd),
            Err(error) => watch.why_not = format!("inotify: {error}"),
        }
        if watch.inotify.is_some()
            && let Err(error) = watch.add(Path::new("/dev/pts"))
        {
            watch.why_not = format!("no devpts on /dev/pts: {error}");
        }
        watch
    }

    /// What it can do here.
    pub(super) fn capability(&self) -> Capability {
        let ok = !self.watches.is_empty();
        let detail = if ok { "inotify on /dev/pts" } else { &self.why_not };
        Capability { name: "terminal".to_owned(), ok, detail: detail.to_owned() }
    }

    /// Waits until the kernel has something to tell. Cancel-safe: it takes nothing.
    pub(super) async fn readable(&self) {
        match &self.inotify {
            Some(fd) if !self.watches.is_empty() => {
                // An error is found again by the reading that follows.
                let _ = fd.readable().await;
            }
            _ => pending().await,
        }
    }

    /// Takes what the kernel told.
    pub(super) fn take(&mut self) -> Vec<Observation> {
        self.read();
        self.apply()
    }

    /// The terminals that are told of since the last time, and those that are no more.
    pub(super) fn take_changes(&mut self) -> Vec<(bool, Place)> {
        std::mem::take(&mut self.changes)
    }

    /// A kernel program saw the master of a terminal closed, and by whom.
    pub(super) fn closed(&mut self, place: Place, at: u64, closer: Process) -> Vec<Observation> {
        let mut found = Vec::new();
        // An index that was opened again behind that is another terminal.
        if self.open.get(&place).is_some_and(|open| open.opened_ns <= at) {
            if let Some(told) = self.open.get_mut(&place).and_then(|open| open.told.as_mut()) {
                told.closer = Some(closer);
            }
            self.close(place, at, Source::Kernel, &mut found);
        }
        found
    }

    /// Takes what inotify told, and holds it for [`Self::apply`].
    pub(super) fn read(&mut self) {
        let told = &mut self.held;
        if let Some(fd) = &self.inotify {
            // Taken before the reading, so that what comes behind it makes it ready again.
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
    }

    /// Makes observations of what inotify told.
    pub(super) fn apply(&mut self) -> Vec<Observation> {
        let told = std::mem::take(&mut self.held);
        let now = boottime_ns();
        let mut found = Vec::new();
        for (wd, flags, index) in told {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                let gap = Gap { reason: GapReason::QueueFull, lost: 0, resynced: true };
                found.push(Observation { boottime_ns: now, body: Body::Gap(gap) });
                self.resync(now, &mut found);
                continue;
            }
            let Some(watch) = self.watches.get(&wd) else { continue };
            let Some(index) = index else { continue };
            let place = (watch.instance, index);
            if flags.contains(ReadFlags::DELETE) {
                self.close(place, now, Source::Inotify, &mut found);
            } else if flags.contains(ReadFlags::CREATE) {
                self.close(place, now, Source::Inotify, &mut found);
                self.insert(place, now, Source::Inotify);
            }
        }
        found
    }

    /// A spawn is about to be told: fills in the instance of its terminal, and tells of the
    /// terminals that a worker may belong to.
    /// `at` is the moment of the spawn.
    pub(super) fn spawned(&mut self, spawn: &mut Spawn, at: u64) -> Vec<Observation> {
        if self.watches.is_empty() {
            return Vec::new();
        }
        // A terminal is told no later than the worker that was born on it.
        let mut found = self.take();
        let instance = look::instance(&self.proc, spawn.pid);
        if let Some(instance) = instance
            && !self.watches.values().any(|watch| watch.instance == instance)
        {
            // Without a watch the terminal stays unknown, and nothing is found by it.
            let _ = self.add(&self.proc.path(spawn.pid, "root/dev/pts"));
        }
        if let Some(terminal) = &mut spawn.terminal {
            terminal.instance = terminal.instance.or(instance);
        }
        if spawn.role != Role::Worker {
            return found;
        }
        let own = spawn.terminal.and_then(|place| Some((place.instance?, place.index)));
        if let Some(parent) = spawn.parent.as_ref().filter(|parent| !parent.reaper) {
            self.gateways.insert(parent.process.pid, parent.process.clone());
        }
        spawn.opener = self.openers.of(&self.proc, spawn);
        if let Some(opener) = &spawn.opener {
            self.gateways.insert(opener.pid, opener.clone());
        }
        // It was there at the spawn, which may be told of before its making was.
        if let Some(open) = own.and_then(|place| self.open.get_mut(&place))
            && open.told.is_none()
        {
            open.opened_ns = open.opened_ns.min(at);
        }
        self.tell(own, &mut found);
        found
    }

    /// Looks again at the terminals that were told of.
    pub(super) fn round(&mut self) -> Vec<Observation> {
        let mut found = Vec::new();
        let proc = &self.proc;
        let lives = |id: Identity| matches!(proc.stat(id.pid), Ok(Some(stat)) if proc.is_same(id, &stat) && !stat.ended());
        self.gateways.retain(|_, process| lives(process.identity()));
        self.openers.retain(lives);
        if !self.gateways.is_empty() || self.open.values().any(|open| open.told.is_some()) {
            self.tell(None, &mut found);
        }
        found
    }

    /// Tells of terminals that are related to a worker, and are new or changed.
    fn tell(&mut self, own: Option<Place>, found: &mut Vec<Observation>) {
        let mut related: BTreeSet<Place> = own.into_iter().collect();
        related.extend(self.open.iter().filter(|(_, open)| open.told.is_some()).map(|(at, _)| *at));
        let mut masters: BTreeMap<Place, Process> = BTreeMap::new();
        for (pid, process) in &self.gateways {
            let held = look::masters(&self.proc, *pid);
            if held.is_empty() {
                continue;
            }
            let Some(instance) = look::instance(&self.proc, *pid) else { continue };
            for index in held {
                masters.insert((instance, index), process.clone());
            }
        }
        related.extend(masters.keys());
        related.retain(|place| self.open.contains_key(place));
        if related.is_empty() {
            return;
        }
        let owned = related.iter().map(|place| (*place, self.owner(*place, masters.get(place))));
        let users = look::users(&self.proc, &owned.collect());
        for place in related {
            let Some(open) = self.open.get_mut(&place) else { continue };
            let users = users.get(&place);
            let leader = users.and_then(|users| users.leader.clone());
            let pids = users.map_or(&[][..], |users| &users.processes);
            let rule = self.rule.as_ref();
            let session = users.and_then(|users| users.session(&self.proc, rule?));
            let before = open.told.as_ref();
            let event = TerminalEvent {
                instance: place.0,
                index: place.1,
                opened_ns: open.opened_ns,
                state: TerminalState::Opened,
                source: open.source,
                master: masters
                    .get(&place)
                    .cloned()
                    .or_else(|| before.and_then(|told| told.master.clone())),
                leader: leader.or_else(|| before.and_then(|told| told.leader.clone())),
                processes: pids.to_vec(),
                session: session.or_else(|| before.and_then(|told| told.session.clone())),
                closer: None,
            };
            let same = before.is_some_and(|told| {
                (&told.master, &told.leader, &told.session)
                    == (&event.master, &event.leader, &event.session)
            });
            if !same {
                let body = Body::Terminal(Box::new(event.clone()));
                found.push(Observation { boottime_ns: boottime_ns(), body });
            }
            if open.told.replace(event).is_none() {
                self.changes.push((true, place));
            }
        }
    }

    /// Whose terminal it is, by its node: where that was first seen, or where its opener sees it.
    fn owner(&self, place: Place, master: Option<&Process>) -> Option<u32> {
        let watched = self.watches.values().filter(|watch| watch.instance == place.0);
        let seen = watched.map(|watch| watch.path.clone());
        let by = master.map(|master| self.proc.path(master.pid, "root/dev/pts"));
        seen.chain(by).find_map(|devpts| look::owner(&devpts, place))
    }

    fn insert(&mut self, place: Place, now: u64, source: Source) {
        if self.open.len() < OPEN_MAX {
            self.open.insert(place, Open { opened_ns: now, source, told: None });
        }
    }

    fn close(&mut self, place: Place, now: u64, source: Source, found: &mut Vec<Observation>) {
        let Some(mut event) = self.open.remove(&place).and_then(|open| open.told) else { return };
        self.changes.push((false, place));
        event.state = TerminalState::Closed;
        event.source = source;
        found.push(Observation { boottime_ns: now, body: Body::Terminal(Box::new(event)) });
    }

    /// After loss: compares what is known with what is there. An index that was closed and opened
    /// again meanwhile looks as if nothing had happened.
    fn resync(&mut self, now: u64, found: &mut Vec<Observation>) {
        let lists: Vec<(u64, BTreeSet<u32>)> = self
            .watches
            .values()
            .filter_map(|watch| Some((watch.instance, look::list(&watch.path).ok()?)))
            .collect();
        for (instance, there) in lists {
            let known: Vec<Place> =
                self.open.keys().filter(|place| place.0 == instance).copied().collect();
            for place in known.iter().filter(|place| !there.contains(&place.1)) {
                self.close(*place, now, Source::Proc, found);
            }
            for index in there {
                if !self.open.contains_key(&(instance, index)) {
                    self.insert((instance, index), now, Source::Proc);
                }
            }
        }
    }

    /// Watches a devpts, and lists what is open on it.
    fn add(&mut self, path: &Path) -> io::Result<()> {
        let Some(instance) = look::instance_at(path) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "not mounted"));
        };
        let Some(fd) = &self.inotify else { return Ok(()) };
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(fd.get_ref(), path, flags)?;
        self.watches.insert(wd, Watch { instance, path: path.to_owned() });
        let now = boottime_ns();
        for index in look::list(path)? {
            self.insert((instance, index), now, Source::Proc);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

    use super::*;
    use crate::{evidence::samples, model::Terminal};

    /// The making of a terminal was read before a spawn on it is told: it is no later than that.
    #[tokio::test]
    async fn a_terminal_is_told_no_later_than_the_worker_that_was_born_on_it() {
        let mut watch = TerminalWatch::start(ProcFs::new("/proc"), None);
        if !watch.capability().ok {
            eprintln!("SKIPPED: {}", watch.capability().detail);
            return;
        }
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&master).unwrap();
        let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
        let at = boottime_ns();
        watch.read();
        let mut spawn = samples::spawn();
        spawn.pid = std::process::id();
        spawn.terminal = Some(Terminal { instance: None, index });
        let told = watch.spawned(&mut spawn, at);
        let opened = told.iter().find_map(|observation| match &observation.body {
            Body::Terminal(event) if event.index == index => Some(event.opened_ns),
            _ => None,
        });
        assert!(opened.expect("it is told") <= at);
        drop(master);
        watch.read();
        let closed = watch.apply();
        assert!(
            closed.iter().any(|observation| matches!(&observation.body,
            Body::Terminal(event) if event.index == index && event.state == TerminalState::Closed))
        );
    }

    /// More happened than the queue holds: that is a gap, and what is there is read again.
    #[tokio::test]
    async fn an_overflow_is_a_gap_and_resyncs() {
        const LENGTH: &str = "/proc/sys/fs/inotify/max_queued_events";
        let Ok(before) = std::fs::read_to_string(LENGTH) else { return };
        // It is copied by each watch that begins (inotify(7)), so only this one gets it.
        if std::fs::write(LENGTH, "4").is_err() {
            eprintln!("SKIPPED: not root: the queue cannot be made short");
            return;
        }
        let mut watch = TerminalWatch::start(ProcFs::new("/proc"), None);
        std::fs::write(LENGTH, before.trim()).unwrap();
        if !watch.capability().ok {
            return;
        }
        let open = || openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let masters: Vec<_> = (0..8).map(|_| open()).collect();
        let found = watch.take();
        let gaps = found.iter().filter(|observation| {
            matches!(&observation.body, Body::Gap(gap) if gap.reason == GapReason::QueueFull && gap.resynced)
        });
        assert_eq!(gaps.count(), 1, "{found:?}");
        for master in &masters {
            let slave = ptsname(master, Vec::new()).unwrap().into_string().unwrap();
            let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
            assert!(watch.open.keys().any(|place| place.1 == index), "{slave}");
        }
        drop(masters);
    }
}
