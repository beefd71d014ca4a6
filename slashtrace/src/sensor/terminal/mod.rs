//! PTYs as inotify(7) on devpts tells of them: their slave node is made by `devpts_pty_new` and
//! removed by `devpts_pty_kill` at the last close of the master, even while an orphan holds the
//! slave. `devpts` is one instance of it, `watches` those that are watched; `look` finds out who
//! holds and uses a terminal, and which session its process names; `opener` who above a worker opens
//! terminals for sessions; `pace` how often each of that is done.
//! May touch: the devpts mounts, /proc through `proc`; of an environment the one variable that the
//! profile names.

mod look;
mod opener;
mod pace;
mod relate;
mod watches;

use std::{collections::BTreeMap, io, path::Path};

use rustix::fs::inotify::ReadFlags;
use slashtrace_ebpf::TerminalKey;

pub(super) use self::opener::has as has_tokens;
use self::{
    opener::Openers,
    pace::{Lives, Looked, Masters, Spawns, Walks},
    watches::{Added, Told, Watches},
};
use crate::{
    host::{
        clock::boottime_ns,
        devpts::{Devpts, instance_of_tty},
        proc::{ProcFs, ProcStat},
    },
    model::{
        Body, Capability, Gap, GapReason, Identity, Observation, Process, Role, Source, Spawn,
        Terminal, TerminalEvent, TerminalState,
    },
    profile::TerminalRule,
    sensor::join::{FlatGateway, FlatGateways, Ports, SessionFiles},
};

/// Terminals that one devpts instance can have (`NR_UNIX98_PTY_MAX`, include/linux/pty.h, is
/// larger; `kernel.pty.max` is 4096), in all instances together.
const OPEN_MAX: usize = 16_384;
/// Processes that are asked for the owner of a terminal where the first one does not know.
const OTHER_VIEWS: usize = 8;
/// Terminals that are looked at again for one spawn.
const AGAIN_FOR_SPAWN: usize = 32;
/// Terminals that are looked at again in one round, if there are so many; of more this part.
const AGAIN_A_ROUND: usize = 64;
const AGAIN_PART: usize = 5;

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

/// An open terminal.
#[derive(Debug)]
struct Open {
    opened_ns: u64,
    source: Source,
    /// Whose it is, once that was asked.
    uid: Option<u32>,
    /// What was told of it, once it was related to a worker.
    told: Option<TerminalEvent>,
}

/// Watches PTYs, and tells of those that a worker may belong to.
#[derive(Debug)]
pub(super) struct TerminalWatch {
    watches: Watches,
    why_not: String,
    proc: ProcFs,
    rule: Option<TerminalRule>,
    open: BTreeMap<Place, Open>,
    /// Terminals that an earlier recording told of, on instances that are not watched yet.
    before: BTreeMap<Place, TerminalEvent>,
    /// What inotify told and was not applied yet.
    held: Vec<Told>,
    /// Which terminals are told of by now, and which no more, since that was asked for.
    changes: Vec<(bool, Place)>,
    /// Parents of workers, and who opens terminals for sessions above them: whose masters are
    /// looked for.
    gateways: BTreeMap<u32, Process>,
    openers: Openers,
    /// Gateways that serve several terminals, and what there is to be known of their processes.
    flat: FlatGateways,
    ports: Ports,
    files: SessionFiles,
    lives: Lives,
    spawns: Spawns,
    masters: Masters,
    walks: Walks,
    /// Terminals that were opened so far.
    opened: u64,
    /// The last terminal that a round looked at again.
    last_again: Place,
}

impl TerminalWatch {
    /// Watches the devpts of this mount namespace; where there is none it watches nothing.
    /// Those of `before` are still open, and keep their names.
    pub(super) fn start(
        proc: ProcFs,
        rule: Option<TerminalRule>,
        before: &[TerminalEvent],
    ) -> Self {
        let (watches, why_not) = Watches::new(proc.clone());
        let ports = Ports::new(&proc);
        let mut watch = Self {
            flat: FlatGateways::default(),
            ports,
            files: SessionFiles::new(),
            watches,
            why_not: why_not.map(|error| format!("inotify: {error}")).unwrap_or_default(),
            proc,
            openers: Openers::new(rule.as_ref()),
            rule,
            open: BTreeMap::new(),
            before: before.iter().map(|it| ((it.instance, it.index), it.clone())).collect(),
            held: Vec::new(),
            changes: Vec::new(),
            gateways: BTreeMap::new(),
            lives: Lives::default(),
            spawns: Spawns::default(),
            masters: Masters::default(),
            walks: Walks::default(),
            opened: 0,
            last_again: (0, 0),
        };
        match Devpts::at(Path::new("/dev/pts")) {
            Some(here) => {
                if let Err(error) = watch.add(&here, None) {
                    watch.why_not = format!("inotify on /dev/pts: {error}");
                }
            }
            None if watch.why_not.is_empty() => {
                "no devpts on /dev/pts".clone_into(&mut watch.why_not);
            }
            None => {}
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
        tokio::select! {
            () = self.watches.readable() => {}
            () = self.files.readable() => {}
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
        self.watches.read(&mut self.held);
    }

    /// Makes observations of what inotify told.
    pub(super) fn apply(&mut self) -> Vec<Observation> {
        let told = std::mem::take(&mut self.held);
        let now = boottime_ns();
        let mut found = Vec::new();
        for (wd, flags, index) in told {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                let gap = Gap { reason: GapReason::QueueFull, lost: 0, resynced: true, uid: None };
                found.push(Observation { boottime_ns: now, body: Body::Gap(gap) });
                self.resync(now, &mut found);
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                // A devpts is unmounted when the last of its masters is closed.
                let gone = self.watches.remove(wd);
                self.vanished(gone, now, &mut found);
                continue;
            }
            let Some(instance) = self.watches.instance(wd) else { continue };
            let Some(index) = index else { continue };
            let place = (instance, index);
            if flags.contains(ReadFlags::DELETE) {
                self.close(place, now, Source::Inotify, &mut found);
            } else if flags.contains(ReadFlags::CREATE) {
                self.close(place, now, Source::Inotify, &mut found);
                self.insert(place, now, Source::Inotify);
            }
        }
        self.files_written(&mut found);
        self.search_gateways(&mut found);
        found
    }

    /// The gateways that serve several terminals since the last time, and those that do no more.
    pub(super) fn take_gateways(&mut self) -> Vec<(bool, FlatGateway)> {
        self.flat.take_changes()
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
        let now = boottime_ns();
        let parent = spawn.parent.as_ref().filter(|parent| !parent.gone);
        let parent = parent.map(|parent| parent.process.identity());
        let lately = parent.and_then(|parent| self.spawns.lately(parent, now));
        let namespace = self.proc.mount_namespace(spawn.pid);
        // What one child of a parent sees at /dev/pts, the next one of the same namespace does.
        if lately.is_none_or(|sibling| namespace.is_some() && sibling.namespace != namespace)
            && let Some(devpts) = Devpts::of(&self.proc, spawn.pid)
            && self.add(&devpts, Some(spawn.pid)).is_err()
        {
            let gap =
                Gap { reason: GapReason::TerminalsUnwatched, lost: 0, resynced: false, uid: None };
            found.push(Observation { boottime_ns: now, body: Body::Gap(gap) });
        }
        spawn.terminal = spawn.terminal.map(|terminal| Terminal {
            instance: terminal.instance.or_else(|| {
                let who = self.who_has(spawn, terminal.index)?;
                instance_of_tty(&self.proc, &who, terminal.index)
            }),
            ..terminal
        });
        if spawn.role != Role::Worker {
            return found;
        }
        let own = spawn.terminal.and_then(|place| Some((place.instance?, place.index)));
        if let Some(parent) = spawn.parent.as_ref().filter(|parent| !parent.reaper) {
            self.opens(&parent.process);
        }
        spawn.opener = self.openers.of(&self.proc, spawn);
        if let Some(opener) = &spawn.opener {
            self.opens(opener);
        }
        // The terminal was there at the spawn, although its opening may be reported later. Nobody
        // here has the index of one that opened afterwards: closing the first took it from all.
        if let Some(place) = own
            && self.who_has(spawn, place.1).is_some()
            && let Some(open) = self.open.get_mut(&place)
            && open.told.is_none()
        {
            open.opened_ns = open.opened_ns.min(at);
        }
        let unknown = |place| self.open.get(&place).is_some_and(|open| open.told.is_none());
        let fresh = lately.is_some_and(|sibling| sibling.opened == self.opened);
        if fresh && !own.is_some_and(unknown) {
            return found;
        }
        if let Some(parent) = parent {
            self.spawns.look(parent, Looked { at: now, opened: self.opened, namespace });
        }
        let above = [spawn.parent.as_ref().map(|parent| &parent.process), spawn.opener.as_ref()];
        let above: Vec<u32> = above.into_iter().flatten().map(|process| process.pid).collect();
        self.tell(own, Some(&above), &mut found);
        found
    }

    /// Notes whose masters are to be looked for.
    fn opens(&mut self, process: &Process) {
        let known = self.gateways.get(&process.pid);
        if known.is_none_or(|known| known.identity() != process.identity()) {
            self.gateways.insert(process.pid, process.clone());
        }
    }

    /// Looks again at the terminals that were told of.
    pub(super) fn round(&mut self) -> Vec<Observation> {
        let mut found = Vec::new();
        let (proc, lives) = (&self.proc, &mut self.lives);
        self.gateways.retain(|_, process| lives.of(proc, process.identity()));
        self.openers.retain(|id| lives.of(proc, id));
        self.masters.retain(|pid| self.gateways.contains_key(&pid));
        self.spawns.round(boottime_ns());
        self.flat.retain(|id| lives.of(proc, id));
        self.watches.look_for_viewers(&self.known());
        self.files_written(&mut found);
        self.search_gateways(&mut found);
        self.tell(None, None, &mut found);
        found
    }

    /// Who of a worker, its parent and that one's session leader has a terminal of this index.
    fn who_has(&self, spawn: &Spawn, index: u32) -> Option<ProcStat> {
        let stat = |id: Identity| {
            let stat = self.proc.stat(id.pid).ok().flatten();
            stat.filter(|stat| self.proc.is_same(id, stat))
        };
        let parent = spawn.parent.as_ref().filter(|parent| !parent.reaper && !parent.gone);
        let parent = parent.and_then(|parent| stat(parent.process.identity()));
        let leader = parent.as_ref().and_then(|it| self.proc.stat(it.sid).ok().flatten());
        let mut all = [stat(spawn.identity()), parent, leader].into_iter().flatten();
        all.find(|stat| stat.terminal.is_some_and(|at| at.index == index))
    }

    /// The processes through which a devpts may be seen.
    fn known(&self) -> Vec<u32> {
        self.gateways.keys().copied().collect()
    }

    fn insert(&mut self, place: Place, now: u64, source: Source) {
        self.opened += 1;
        let before = self.before.remove(&place).filter(|_| source == Source::Proc);
        if self.open.len() >= OPEN_MAX {
            return;
        }
        self.open.entry(place).or_insert_with(|| match before {
            Some(told) => {
                self.changes.push((true, place));
                let (opened_ns, uid, source) = (told.opened_ns, told.uid, told.source);
                Open { opened_ns, source, uid, told: Some(told) }
            }
            None => Open { opened_ns: now, source, uid: None, told: None },
        });
    }

    fn close(&mut self, place: Place, now: u64, source: Source, found: &mut Vec<Observation>) {
        let Some(open) = self.open.remove(&place) else { return };
        // Its index may be another terminal's the next moment.
        self.masters.closed(place);
        self.walks.users.remove(&place);
        self.files.forget(place);
        let Some(mut event) = open.told else { return };
        self.changes.push((false, place));
        event.state = TerminalState::Closed;
        event.source = source;
        found.push(Observation { boottime_ns: now, body: Body::Terminal(Box::new(event)) });
    }

    /// After loss: compares what is known with what is there. An index that was closed and opened
    /// again meanwhile looks as if nothing had happened.
    fn resync(&mut self, now: u64, found: &mut Vec<Observation>) {
        let known = self.known();
        for instance in self.watches.renew(&known) {
            self.vanished(Some(instance), now, found);
        }
        let list = |instance: u64| self.watches.views(instance, &known).next()?.list().ok();
        let lists = self.watches.instances().into_iter();
        let lists: Vec<_> = lists.filter_map(|it| Some((it, list(it)?))).collect();
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

    /// Watches a devpts that is not watched yet. An error is given once.
    fn add(&mut self, devpts: &Devpts, seen_by: Option<u32>) -> io::Result<()> {
        let now = boottime_ns();
        match self.watches.add(devpts, seen_by) {
            Added::Now(open) => {
                self.masters.clear();
                for index in open {
                    self.insert((devpts.instance(), index), now, Source::Proc);
                }
                Ok(())
            }
            Added::No => Ok(()),
            Added::Refused(error) => Err(error),
        }
    }

    /// An instance is no more, so that its terminals are closed; its number will be another's.
    fn vanished(&mut self, gone: Option<u64>, now: u64, found: &mut Vec<Observation>) {
        let all = self.open.keys().filter(|place| Some(place.0) == gone);
        for place in all.copied().collect::<Vec<Place>>() {
            self.close(place, now, Source::Proc, found);
        }
    }
}

#[cfg(test)]
mod tests;
