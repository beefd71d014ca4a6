//! The terminals that a recording tells of, and which of them a worker belongs to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    join::{By, Connected, View, Write},
    worker::{Moment, Worker},
    {Roster, Subject},
};
use crate::model::{
    Confidence, Identity, Process, Record, Source, Terminal, TerminalEvent, TerminalState,
};

/// A worker belongs to a terminal that was opened this shortly before it, ns (`spawn-window`).
const WINDOW: u64 = 30_000_000_000;
/// How long a closed terminal that no live worker belongs to is kept for records that come late.
const REMEMBERED: u64 = 60_000_000_000;

/// One opening of an index: instance, index, when it was opened.
pub(super) type Key = (u64, u32, u64);
/// Writes of one terminal's session file that are remembered.
const WRITES_MAX: usize = 16;
/// Connections of one terminal's processes that are remembered.
const PORTS_MAX: usize = 64;

/// What is known of one terminal.
#[derive(Debug)]
pub(crate) struct Known {
    index: u32,
    instance: u64,
    opened_ns: u64,
    /// The first record that named it.
    pub(crate) opened: u64,
    pub(crate) closed: Option<Moment>,
    /// Whose it is, if that is known.
    uid: Option<u32>,
    master: Option<Identity>,
    /// The session that its process named last, and the record that says so.
    session: Option<(String, u64)>,
    /// The session that its process was started to show, and the record that says so.
    resumes: Option<(String, u64)>,
    /// Writes of its session file, oldest first.
    writes: Vec<Write>,
    /// Connections of its processes to who holds its master, by port.
    ports: BTreeMap<u16, Connected>,
}

impl Known {
    fn key(&self) -> Key {
        (self.instance, self.index, self.opened_ns)
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Terminal {
        Terminal { instance: Some(self.instance), index: self.index }
    }

    fn is_at(&self, place: Terminal) -> bool {
        self.index == place.index && place.instance.is_none_or(|at| at == self.instance)
    }

    /// Whether what its processes say counts for this worker: they are its own user's, or root's.
    fn speaks_for(&self, worker: &Worker) -> bool {
        self.uid.is_none_or(|uid| uid == 0 || uid == worker.uid)
    }

    fn shows(&self, session: Option<&str>) -> bool {
        let shown = self.session.as_ref().map(|(session, _)| session.as_str());
        shown.is_some() && shown == session
    }

    /// Takes what its processes did beside showing a session.
    fn took_part(&mut self, record: &Record, event: &TerminalEvent) {
        let (now, seq) = (record.boottime_ns, record.seq);
        if let Some(resumes) = &event.resumes
            && self.resumes.as_ref().is_none_or(|(known, _)| known != resumes)
        {
            self.resumes = Some((resumes.clone(), seq));
        }
        if let (Some(at), Some(session)) = (event.session_ns, &event.session)
            && self.writes.last().is_none_or(|last| last.at < at)
        {
            if self.writes.len() >= WRITES_MAX {
                self.writes.remove(0);
            }
            self.writes.push(Write { at, session: session.clone(), seq });
        }
        if event.ports.is_empty() {
            return;
        }
        for (port, seen) in &mut self.ports {
            seen.until = if event.ports.contains(port) { None } else { seen.until.or(Some(now)) };
        }
        for port in &event.ports {
            if self.ports.len() < PORTS_MAX {
                self.ports.entry(*port).or_insert(Connected { from: now, until: None });
            }
        }
    }

    /// What the session that its process was started to show is, if it has shown no other since.
    fn started_for(&self) -> Option<&str> {
        let resumes = self.resumes.as_ref().map(|(session, _)| session.as_str())?;
        let shown = self.session.as_ref().map(|(session, _)| session.as_str());
        (shown.is_none() || shown == Some(resumes)).then_some(resumes)
    }

    fn view(&self) -> View<'_, Key> {
        View {
            key: self.key(),
            opened: self.opened_ns,
            closed: self.closed.map(|closed| closed.at),
            ports: &self.ports,
            writes: &self.writes,
        }
    }

    /// Whether its process has named another session since it wrote this.
    fn moved_on(&self, from: &Write) -> bool {
        self.writes.iter().any(|write| write.at > from.at && write.session != from.session)
    }

    /// Whether its master is held by a process that opens terminals above the worker.
    fn opened_for(&self, worker: &Worker) -> bool {
        self.master.is_some_and(|master| {
            worker.above.contains(&master) || worker.opener.get() == Some(master)
        })
    }

    /// Whether it was open when the worker was born.
    fn open_at_birth(&self, worker: &Worker) -> bool {
        self.opened_ns <= worker.seen_ns
            && self.closed.is_none_or(|closed| closed.at >= worker.birth.at)
    }
}

/// By what a worker belongs to its terminal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Join {
    ControllingTty,
    SessionFile,
    SpawnWindow,
    /// Its process was started to show the worker's session.
    Resumed,
    /// The write of its session file and the reply of the gateway, for the first worker of the
    /// session.
    WriteAndReply,
    /// The write alone.
    Write,
    /// The reply alone.
    Reply,
    /// Its controlling terminal, opened by nobody who is known to be a gateway. It may be the one
    /// of a shell that the gateway was only started from, and that it was meant to outlive.
    OthersTty,
}

impl Join {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::ControllingTty => "controlling terminal",
            Self::SessionFile => "session file",
            Self::SpawnWindow => "opened shortly before its spawn",
            Self::Resumed => "started to resume this session",
            Self::WriteAndReply => "session file written, and replied to, for its session",
            Self::Write => "session file written for its session",
            Self::Reply => "replied to for its session",
            Self::OthersTty => "controlling terminal, which its gateway did not open",
        }
    }

    /// How surely it holds; a worker that was there before, or was only polled, was not seen to
    /// be born on it.
    pub(crate) fn confidence(self, worker: &Worker) -> Confidence {
        let seen = worker.birth.source == Source::Kernel && !worker.birth.inherited;
        match self {
            Self::ControllingTty if seen => Confidence::Proven,
            Self::ControllingTty => Confidence::Strong,
            Self::SessionFile | Self::Resumed | Self::WriteAndReply => {
                Confidence::Strong.min(worker.surety)
            }
            Self::SpawnWindow | Self::OthersTty | Self::Write | Self::Reply => Confidence::Weak,
        }
    }
}

/// A worker's terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributed<'a> {
    pub(crate) terminal: &'a Known,
    pub(crate) join: Join,
    /// The record of its session file, and that of the gateway's reply.
    pub(crate) seqs: [Option<u64>; 2],
}

/// All terminals that are open, or closed and still of use.
#[derive(Debug, Default)]
pub(super) struct Terminals {
    all: BTreeMap<Key, Known>,
    by_index: BTreeMap<u32, BTreeSet<Key>>,
    by_master: BTreeMap<Identity, BTreeSet<Key>>,
    by_session: BTreeMap<String, BTreeSet<Key>>,
    /// By the session that each was started to show.
    by_resumed: BTreeMap<String, BTreeSet<Key>>,
    /// Closed ones, by until when they are kept.
    retiring: BTreeSet<(u64, Key)>,
}

impl Terminals {
    /// Whether an open terminal shows this session of a worker's: somebody is attached to it.
    fn shown(&self, session: Option<&str>, worker: &Worker) -> bool {
        let mut showing = session.into_iter().flat_map(|session| self.showing(session));
        showing.any(|one| one.closed.is_none() && one.speaks_for(worker))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.by_resumed.len()
    }

    fn at(&self, index: u32) -> impl Iterator<Item = &Known> {
        self.by_index.get(&index).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    fn of_master(&self, master: Identity) -> impl Iterator<Item = &Known> {
        self.by_master.get(&master).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// What is known of one terminal, for the rule.
    pub(super) fn view(&self, key: Key) -> Option<View<'_, Key>> {
        self.all.get(&key).map(Known::view)
    }

    /// The same of those whose master a process holds or held.
    pub(super) fn views_of(&self, master: Identity) -> impl Iterator<Item = View<'_, Key>> {
        self.of_master(master).map(Known::view)
    }

    fn showing(&self, session: &str) -> impl Iterator<Item = &Known> {
        self.by_session.get(session).into_iter().flatten().filter_map(|key| self.all.get(key))
    }

    /// Terminals that were started to show this session, and have shown no other since.
    pub(super) fn started_for<'a>(&'a self, session: &str) -> impl Iterator<Item = &'a Known> {
        let all = self.by_resumed.get(session).into_iter().flatten();
        let all = all.filter_map(|key| self.all.get(key));
        all.filter(move |one| one.started_for() == Some(session))
    }

    /// Takes what is told of a terminal; returns the session that it showed before.
    fn observe(&mut self, record: &Record, event: &TerminalEvent) -> (Key, Option<String>) {
        let key = (event.instance, event.index, event.opened_ns);
        let known = self.all.entry(key).or_insert_with(|| Known {
            index: event.index,
            instance: event.instance,
            opened_ns: event.opened_ns,
            opened: record.seq,
            closed: None,
            uid: None,
            master: None,
            session: None,
            resumes: None,
            writes: Vec::new(),
            ports: BTreeMap::new(),
        });
        self.by_index.entry(event.index).or_default().insert(key);
        known.uid = event.uid.or(known.uid);
        let master = event.master.as_ref().map(Process::identity);
        if let Some(master) = master.filter(|_| known.master.is_none()) {
            known.master = Some(master);
            self.by_master.entry(master).or_default().insert(key);
        }
        let resumed = known.resumes.as_ref().map(|(session, _)| session.clone());
        known.took_part(record, event);
        let resumes = known.resumes.as_ref().map(|(session, _)| session);
        if let Some(resumes) = resumes.filter(|now| Some(*now) != resumed.as_ref()) {
            if let Some(resumed) = &resumed {
                unlist(&mut self.by_resumed, resumed, key);
            }
            self.by_resumed.entry(resumes.clone()).or_default().insert(key);
        }
        let mut before = None;
        if let Some(session) = &event.session
            && !known.shows(Some(session))
        {
            before = known.session.replace((session.clone(), record.seq)).map(|(before, _)| before);
            if let Some(before) = &before {
                unlist(&mut self.by_session, before, key);
            }
            self.by_session.entry(session.clone()).or_default().insert(key);
        }
        if event.state == TerminalState::Closed && known.closed.is_none() {
            let (at, seq) = (record.boottime_ns, record.seq);
            known.closed = Some(Moment { at, seq, source: event.source });
            self.retiring.insert((at.saturating_add(REMEMBERED), key));
        }
        (key, before)
    }

    fn forget(&mut self, key: Key) {
        let Some(known) = self.all.remove(&key) else { return };
        unlist(&mut self.by_index, &known.index, key);
        if let Some(master) = known.master {
            unlist(&mut self.by_master, &master, key);
        }
        if let Some((session, _)) = known.session {
            unlist(&mut self.by_session, &session, key);
        }
        if let Some((session, _)) = known.resumes {
            unlist(&mut self.by_resumed, &session, key);
        }
    }
}

fn unlist<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(&key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

impl Roster {
    pub(super) fn terminal_seen(&mut self, record: &Record, event: &TerminalEvent) {
        let (key, before) = self.terminals.observe(record, event);
        let master = self.terminals.all.get(&key).and_then(|known| known.master);
        if let Some(master) = master {
            self.join_sessions(master);
        }
        let workers = self.may_belong_to(key, before.as_deref());
        self.touch_gateways_without_clients(&workers, master);
        for id in workers {
            self.touch(Subject::Worker(id));
        }
    }

    /// Marks the gateways of these workers, and another one, where clients are gone: who is attached to
    /// a session bears on whether its worker is abandoned.
    pub(super) fn touch_gateways_without_clients(
        &mut self,
        workers: &[Identity],
        other: Option<Identity>,
    ) {
        let judged = |id: &Identity| {
            let departed = |id| self.gateways.get(id).is_some_and(|at| !at.departed.is_empty());
            self.clientless.contains_key(id) || departed(id)
        };
        let gateways = workers.iter().filter_map(|id| self.worker(*id)?.gateway_id());
        let gateways: BTreeSet<Identity> = gateways.chain(other).filter(judged).collect();
        for id in gateways {
            self.touch(Subject::Gateway(id));
        }
    }

    /// Whether this opening of a terminal was observed before.
    pub(crate) fn has_terminal(&self, event: &TerminalEvent) -> bool {
        self.knows_terminal((event.instance, event.index, event.opened_ns))
    }

    /// Whether a terminal is open, or closed and still of use.
    pub(super) fn knows_terminal(&self, key: Key) -> bool {
        self.terminals.all.contains_key(&key)
    }

    /// The live workers whose terminal this may be, now or before it showed another session.
    fn may_belong_to(&self, key: Key, before: Option<&str>) -> Vec<Identity> {
        let Some(known) = self.terminals.all.get(&key) else { return Vec::new() };
        let shown = known.session.as_ref().map(|(session, _)| session.as_str());
        let sessions = [shown, before].into_iter().flatten();
        let by_session = sessions.filter_map(|session| self.by_session.get(session)).flatten();
        let by_tty = self.by_tty.get(&known.index).into_iter().flatten();
        let window = known.opened_ns..=known.opened_ns.saturating_add(WINDOW);
        let below = known.master.and_then(|master| self.gateways.get(&master));
        let below = below.into_iter().flat_map(|gateway| &gateway.live);
        let in_window = below.filter(|id| {
            self.workers.get(id).is_some_and(|worker| window.contains(&worker.birth.at))
        });
        let joined = known.master.map(|master| self.joined_to(master, key)).unwrap_or_default();
        let named = known.resumes.as_ref().and_then(|(it, _)| self.by_session.get(it.as_str()));
        let all = by_session.chain(by_tty).chain(in_window).chain(named.into_iter().flatten());
        let all: BTreeSet<Identity> = all.chain(&joined).copied().collect();
        let live = |id: &Identity| self.workers.get(id).is_some_and(Worker::is_live);
        all.into_iter().filter(live).collect()
    }

    /// Forgets terminals that closed long ago and that no live worker belongs to.
    pub(super) fn retire_terminals(&mut self) {
        while let Some(&(until, key)) = self.terminals.retiring.first() {
            if until >= self.now {
                break;
            }
            self.terminals.retiring.pop_first();
            let used = self.may_belong_to(key, None).into_iter().any(|id| {
                let found = self.workers.get(&id).and_then(|worker| self.terminal_of(worker));
                found.is_some_and(|found| found.terminal.key() == key)
            });
            if used {
                let again = self.now.saturating_add(REMEMBERED);
                self.terminals.retiring.insert((again, key));
            } else {
                self.terminals.forget(key);
            }
        }
    }

    /// Whether somebody is attached to a worker's session: an open terminal shows it, was started to,
    /// or is the one that it was joined to; or names it as the one that it was joined to did.
    pub(crate) fn is_shown(&self, worker: &Worker) -> bool {
        let session = worker.session.as_deref();
        if self.terminals.shown(session, worker) {
            return true;
        }
        let Some(gateway) = worker.gateway_id() else { return false };
        // A gateway may have as many terminals as workers: only those of the session are looked at.
        let mut started =
            session.into_iter().flat_map(|session| self.terminals.started_for(session));
        let started = started.any(|one| {
            one.closed.is_none() && one.master == Some(gateway) && one.speaks_for(worker)
        });
        let joined = self.joined(worker).is_some_and(|joined| {
            let terminal = self.terminals.all.get(&joined.found.terminal);
            let open = terminal.is_some_and(|terminal| terminal.closed.is_none());
            let write = joined.found.write.as_ref();
            open || self.terminals.shown(write.map(|write| write.session.as_str()), worker)
        });
        started || joined
    }

    /// The terminal that a worker belongs to, by the surest join that there is.
    pub(crate) fn terminal_of(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let tty = self.by_tty(worker);
        tty.filter(|found| found.join == Join::ControllingTty)
            .or_else(|| self.by_session_file(worker))
            .or_else(|| self.by_resume(worker))
            .or_else(|| self.by_join(worker))
            .or_else(|| self.by_spawn_window(worker))
            .or(tty)
    }

    fn by_tty(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let place = worker.terminal.get()?;
        let at = self.terminals.at(place.index).filter(|one| one.is_at(place));
        let mut at: Vec<&Known> = at.filter(|one| one.open_at_birth(worker)).collect();
        at.sort_by_key(|one| one.opened_ns);
        let terminal = *at.last()?;
        // Two containers have the same indices.
        if at.iter().any(|one| one.instance != terminal.instance) {
            return None;
        }
        // The index alone may be that of a terminal on another devpts.
        let own = place.instance.is_some() && terminal.opened_for(worker);
        let join = if own { Join::ControllingTty } else { Join::OthersTty };
        Some(Attributed { terminal, join, seqs: [None; 2] })
    }

    fn by_session_file(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let shown = self.terminals.showing(worker.session.as_deref()?).filter(|one| {
            one.opened_for(worker)
                && one.speaks_for(worker)
                && one.closed.is_none_or(|closed| closed.at >= worker.birth.at)
        });
        let terminal = shown.max_by_key(|one| (one.opened_ns, one.instance, one.index))?;
        let seq = terminal.session.as_ref().map(|&(_, seq)| seq);
        Some(Attributed { terminal, join: Join::SessionFile, seqs: [seq, None] })
    }

    fn by_resume(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let session = worker.session.as_deref()?;
        let gateway = worker.gateway_id()?;
        let started = self.terminals.started_for(session).filter(|one| {
            one.master == Some(gateway)
                && one.speaks_for(worker)
                && one.closed.is_none_or(|closed| closed.at >= worker.birth.at)
        });
        let terminal = started.max_by_key(|one| (one.opened_ns, one.instance, one.index))?;
        let seq = terminal.resumes.as_ref().map(|&(_, seq)| seq);
        Some(Attributed { terminal, join: Join::Resumed, seqs: [seq, None] })
    }

    fn by_join(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let joined = self.joined(worker)?;
        let terminal = self.terminals.all.get(&joined.found.terminal)?;
        let write = joined.found.write.as_ref();
        let join = match joined.found.by {
            // It shows another session by now; this one may be somewhere else, too.
            By::Both if write.is_some_and(|write| terminal.moved_on(write)) => Join::Write,
            By::Both => Join::WriteAndReply,
            By::Write => Join::Write,
            By::Reply => Join::Reply,
        };
        Some(Attributed { terminal, join, seqs: [write.map(|write| write.seq), joined.reply_seq] })
    }

    fn by_spawn_window(&self, worker: &Worker) -> Option<Attributed<'_>> {
        // More is known, and it did not do.
        if self.could_be_joined(worker) {
            return None;
        }
        let gateway = worker.gateway_id()?;
        let from = worker.birth.at.saturating_sub(WINDOW);
        let mut free = self.terminals.of_master(gateway).filter(|one| {
            (from..=worker.birth.at).contains(&one.opened_ns)
                && one.open_at_birth(worker)
                && !self.claimed(one, worker, |other| other.uid == worker.uid)
        });
        let terminal = free.next()?;
        // What another user's worker claims leaves no other terminal as the only one.
        let only = free.next().is_none() && !self.claimed(terminal, worker, |_| true);
        only.then_some(Attributed { terminal, join: Join::SpawnWindow, seqs: [None; 2] })
    }

    /// Whether another session has a claim to a terminal: its worker has it as controlling
    /// terminal, is named by it, or was spawned after it opened and before this one.
    fn claimed(&self, terminal: &Known, worker: &Worker, by: impl Fn(&Worker) -> bool) -> bool {
        let other = |id: &Identity| {
            let other = self.workers.get(id).filter(|other| other.session != worker.session);
            other.filter(|other| by(other))
        };
        let at = self.by_tty.get(&terminal.index).into_iter().flatten().filter_map(other);
        let mut at = at.filter(|other| terminal.open_at_birth(other));
        if at.any(|other| other.terminal.get().is_some_and(|place| terminal.is_at(place))) {
            return true;
        }
        let shown = terminal.session.as_ref().filter(|_| terminal.speaks_for(worker));
        let shown = shown.and_then(|(session, _)| self.by_session.get(session.as_str()));
        if shown.into_iter().flatten().any(|id| other(id).is_some()) {
            return true;
        }
        let master = terminal.master.and_then(|master| self.gateways.get(&master));
        master.is_some_and(|gateway| {
            let mut before = gateway.born_within(terminal.opened_ns..worker.birth.at);
            before.any(|id| other(&id).is_some())
        })
    }
}
