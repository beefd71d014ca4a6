//! The terminals that a recording tells of, and which of them a worker belongs to.

use std::collections::BTreeMap;

use super::{
    table::{Subject, Table},
    worker::{Moment, Worker},
};
use crate::model::{
    Confidence, Identity, Process, Record, Source, Terminal, TerminalEvent, TerminalState,
};

/// A worker belongs to a terminal that was opened this shortly before it, ns (`spawn-window`).
const WINDOW: u64 = 30_000_000_000;
/// How long a closed terminal that no live worker belongs to is kept for records that come late.
const REMEMBERED: u64 = 60_000_000_000;

/// One opening of an index: instance, index, when it was opened.
type Key = (u64, u32, u64);

/// What is known of one terminal.
#[derive(Debug)]
pub(super) struct Known {
    index: u32,
    instance: u64,
    opened_ns: u64,
    /// The first record that named it.
    pub(super) opened: u64,
    pub(super) closed: Option<Moment>,
    master: Option<Identity>,
    /// The session that its process named last, and the record that says so.
    session: Option<(String, u64)>,
}

impl Known {
    /// Where it is.
    pub(super) fn place(&self) -> Terminal {
        Terminal { instance: Some(self.instance), index: self.index }
    }

    fn is_at(&self, place: Terminal) -> bool {
        self.index == place.index && place.instance.is_none_or(|at| at == self.instance)
    }

    fn shows(&self, session: Option<&str>) -> bool {
        let shown = self.session.as_ref().map(|(session, _)| session.as_str());
        shown.is_some() && shown == session
    }

    /// Whether its master is held by a process that opens terminals above the worker.
    fn opened_for(&self, worker: &Worker) -> bool {
        self.master
            .is_some_and(|master| worker.above.contains(&master) || worker.opener == Some(master))
    }

    /// Whether it was open when the worker was born.
    fn open_at_birth(&self, worker: &Worker) -> bool {
        self.opened_ns <= worker.seen_ns
            && self.closed.is_none_or(|closed| closed.at >= worker.birth.at)
    }
}

/// By what a worker belongs to its terminal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Join {
    ControllingTty,
    SessionFile,
    SpawnWindow,
    /// Its controlling terminal, opened by nobody who is known to be a gateway. It may be the one
    /// of a shell that the gateway was only started from, and that it was meant to outlive.
    OthersTty,
}

impl Join {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::ControllingTty => "controlling terminal",
            Self::SessionFile => "session file",
            Self::SpawnWindow => "opened shortly before its spawn",
            Self::OthersTty => "controlling terminal, which its gateway did not open",
        }
    }

    /// How surely it holds; a worker that was there before, or was only polled, was not seen to
    /// be born on it.
    pub(super) fn confidence(self, worker: &Worker) -> Confidence {
        let seen = worker.birth.source == Source::Kernel && !worker.birth.inherited;
        match self {
            Self::ControllingTty if seen => Confidence::Proven,
            Self::ControllingTty => Confidence::Strong,
            Self::SessionFile => Confidence::Strong.min(worker.surety),
            Self::SpawnWindow | Self::OthersTty => Confidence::Weak,
        }
    }
}

/// A worker's terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributed<'a> {
    pub(super) terminal: &'a Known,
    pub(super) join: Join,
    /// The record of its session file.
    pub(super) session_seq: Option<u64>,
}

/// All terminals that are open, or closed and still of use.
#[derive(Debug, Default)]
pub(super) struct Terminals(BTreeMap<Key, Known>);

impl Terminals {
    /// Whether an open terminal shows this session: somebody is attached to it.
    pub(super) fn shown(&self, session: Option<&str>) -> bool {
        self.0.values().any(|one| one.closed.is_none() && one.shows(session))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, record: &Record, event: &TerminalEvent) {
        let key = (event.instance, event.index, event.opened_ns);
        let known = self.0.entry(key).or_insert_with(|| Known {
            index: event.index,
            instance: event.instance,
            opened_ns: event.opened_ns,
            opened: record.seq,
            closed: None,
            master: None,
            session: None,
        });
        known.master = known.master.or(event.master.as_ref().map(Process::identity));
        if let Some(session) = &event.session
            && !known.shows(Some(session))
        {
            known.session = Some((session.clone(), record.seq));
        }
        if event.state == TerminalState::Closed && known.closed.is_none() {
            let (at, seq) = (record.boottime_ns, record.seq);
            known.closed = Some(Moment { at, seq, source: event.source });
        }
    }
}

impl Table {
    pub(super) fn terminal_seen(&mut self, record: &Record, event: &TerminalEvent) {
        self.terminals.take(record, event);
        self.forget_terminals();
        let live = self.workers.values().filter(|worker| worker.is_live());
        let ids: Vec<Identity> = live.map(|worker| worker.id).collect();
        for id in ids {
            self.touch(Subject::Worker(id));
        }
    }

    /// Forgets terminals that closed long ago and that no live worker belongs to.
    fn forget_terminals(&mut self) {
        let old = |one: &Known| {
            one.closed.is_some_and(|closed| closed.at.saturating_add(REMEMBERED) < self.now)
        };
        if !self.terminals.0.values().any(old) {
            return;
        }
        let live = self.workers.values().filter(|worker| worker.is_live());
        let used: Vec<Key> = live
            .filter_map(|worker| self.terminal_of(worker))
            .map(|found| (found.terminal.instance, found.terminal.index, found.terminal.opened_ns))
            .collect();
        let now = self.now;
        self.terminals.0.retain(|key, one| {
            used.contains(key)
                || one.closed.is_none_or(|closed| closed.at.saturating_add(REMEMBERED) >= now)
        });
    }

    /// The terminal that a worker belongs to, by the surest join that there is.
    pub(super) fn terminal_of(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let tty = self.by_tty(worker);
        tty.filter(|found| found.join == Join::ControllingTty)
            .or_else(|| self.by_session_file(worker))
            .or_else(|| self.by_spawn_window(worker))
            .or(tty)
    }

    fn by_tty(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let place = worker.terminal?;
        let at = self.terminals.0.values().filter(|one| one.is_at(place));
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
        Some(Attributed { terminal, join, session_seq: None })
    }

    fn by_session_file(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let session = worker.session.as_deref();
        let shown = self.terminals.0.values().filter(|one| {
            one.shows(session)
                && one.opened_for(worker)
                && one.closed.is_none_or(|closed| closed.at >= worker.birth.at)
        });
        let terminal = shown.max_by_key(|one| (one.opened_ns, one.instance, one.index))?;
        let session_seq = terminal.session.as_ref().map(|&(_, seq)| seq);
        Some(Attributed { terminal, join: Join::SessionFile, session_seq })
    }

    fn by_spawn_window(&self, worker: &Worker) -> Option<Attributed<'_>> {
        let gateway = worker.link.as_ref()?.gateway.identity();
        let from = worker.birth.at.saturating_sub(WINDOW);
        let mut free = self.terminals.0.values().filter(|one| {
            one.master == Some(gateway)
                && (from..=worker.birth.at).contains(&one.opened_ns)
                && one.open_at_birth(worker)
                && !self.claimed(one, worker, |other| other.uid == worker.uid)
        });
        let terminal = free.next()?;
        // What another user's worker claims leaves no other terminal as the only one.
        let only = free.next().is_none() && !self.claimed(terminal, worker, |_| true);
        only.then_some(Attributed { terminal, join: Join::SpawnWindow, session_seq: None })
    }

    /// Whether another session has a claim to a terminal: its worker has it as controlling
    /// terminal, is named by it, or was spawned behind it and earlier.
    fn claimed(&self, terminal: &Known, worker: &Worker, by: impl Fn(&Worker) -> bool) -> bool {
        let others = self.workers.values().filter(|other| other.session != worker.session);
        let mut others = others.filter(|other| by(other));
        others.any(|other| {
            let tty = other.terminal.is_some_and(|place| terminal.is_at(place))
                && terminal.open_at_birth(other);
            let same = other.link.as_ref().map(|link| link.gateway.identity()) == terminal.master;
            let before = (terminal.opened_ns..worker.birth.at).contains(&other.birth.at);
            tty || terminal.shows(other.session.as_deref()) || (same && before)
        })
    }
}
