//! The roster: one pure fold of records. Who lives, whose it is, what it did: computed once, here,
//! and read by the engine, the reaper and every sink.
//! May touch: `model` and `profile`. No clock, no /proc, no async, no locks.
//!
//! `worker` is one worker, `usage` who can use it, `group` the workers of one session under one gateway, `gateway` who forked
//! them, `family` what descends from a worker, `terminal` and `client` what they are for, `activity`
//! what they did. `origin` who only launched
//! a worker or passed through, `apply` is what each record changes, `retire` what is forgotten and when,
//! `condense` on which records what is known rests.
//!
//! The work for a record depends on the subjects that it changes, never on what has ended: every
//! question that is asked often has an index or a count that is kept.

mod activity;
mod apply;
mod attribution;
mod client;
pub(crate) mod condense;
mod ends;
mod family;
mod few;
mod gateway;
mod group;
mod index;
mod join;
mod judged;
mod origin;
mod replacements;
mod retire;
mod rules;
mod terminal;
#[cfg(test)]
mod tests;
mod timeline;
mod unreaped;
mod usage;
mod worker;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::judged::{Reasons, Unjudged};
pub(crate) use self::{
    activity::Rise,
    attribution::GroupKey,
    client::How,
    family::Descendant,
    gateway::Gateway,
    group::Group,
    index::{Index, give_back},
    rules::Rules,
    usage::{Doubt, Reach, span},
    worker::{Moment, Witness, Worker, witness},
};
use self::{
    ends::Ends, few::Few, retire::Retiring, terminal::Terminals, unreaped::Unreaped,
    workers::Workers,
};
use crate::{
    model::{Body, FORMAT_VERSION, Identity, Memory, Record, Role, Spawn},
    profile::Profile,
};

/// What may have to be judged anew after a record.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Subject {
    /// Judged first: a gateway's surplus is the sum of its groups'.
    Group(GroupKey),
    /// A gateway.
    Gateway(Identity),
    /// A worker.
    Worker(Identity),
    /// slashtrace's own reaper, for the workers of one user; none in recordings that had one for all.
    Reaper(Option<u32>),
}

/// How many workers there were and are. Launchers are not counted: the worker that one launched is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Workers ever, those that were there before the recording included.
    pub spawned: u64,
    /// Of these, those that were there before.
    pub inherited: u64,
    /// Workers that live now.
    pub live: u64,
}

impl Totals {
    /// Workers that have ended, became another program, or are zombies.
    pub fn ended(&self) -> u64 {
        self.spawned.saturating_sub(self.live)
    }
}

/// Everything that is known of the workers of a recording, and of what is around them.
///
/// Memory is bounded by what lives, plus what ended within the windows of the profile (at most
/// 8,192 workers of it).
#[derive(Debug)]
pub struct Roster {
    pub(crate) rules: Rules,
    /// Latest moment seen, ns of the boot clock; records may be slightly out of order.
    pub(crate) now: u64,
    pub(crate) workers: Workers,
    descendants: Index<Identity, Descendant>,
    /// Live descendants by worker.
    families: Index<Identity, BTreeSet<Identity>>,
    /// Live descendants by the process that forked them.
    children: Index<Identity, BTreeSet<Identity>>,
    groups: Index<GroupKey, Box<Group>>,
    pub(crate) gateways: Index<Identity, Gateway>,
    ends: Ends,
    /// Gateways that listen and have had no client without interruption: the first look at that.
    clientless: Index<Identity, Moment>,
    terminals: Terminals,
    /// Of gateways that serve several terminals, which sessions are on which.
    joins: Index<Identity, join::Sessions>,
    /// Remembered workers by session, and by the index of their terminal.
    by_session: Index<Arc<str>, Few<Identity>>,
    by_tty: Index<u32, BTreeSet<Identity>>,
    /// Workers by what launched them.
    launched: Index<Identity, BTreeSet<Identity>>,
    /// Live workers of gateways that have exited, and how many there are in all.
    left_behind: (Index<Identity, usize>, usize),
    /// The machine's memory and the record that gave it.
    memory: Option<(Memory, u64)>,
    /// That the reaper's circuit breaker opened: the record that says so, and what it says.
    reaper_stopped: BTreeMap<Option<u32>, (u64, String)>,
    totals: Totals,
    /// Why workers could not be judged that are forgotten.
    unjudged_before: Reasons,
    unreaped: Unreaped,
    changed: BTreeSet<Subject>,
    retiring: Retiring,
}

impl Roster {
    /// A roster that knows nothing yet.
    pub fn new(profile: &Profile) -> Self {
        Self {
            rules: Rules::new(profile),
            now: 0,
            workers: Workers::default(),
            descendants: Index::default(),
            families: Index::default(),
            children: Index::default(),
            groups: Index::default(),
            gateways: Index::default(),
            ends: Ends::default(),
            clientless: Index::default(),
            terminals: Terminals::default(),
            joins: Index::default(),
            by_session: Index::default(),
            by_tty: Index::default(),
            launched: Index::default(),
            left_behind: (Index::default(), 0),
            memory: None,
            reaper_stopped: BTreeMap::new(),
            totals: Totals::default(),
            unjudged_before: Reasons::default(),
            unreaped: Unreaped::default(),
            changed: BTreeSet::new(),
            retiring: Retiring::default(),
        }
    }

    /// Whoever a snapshot of /proc shows, with nothing of a past: no grace or window matters.
    pub(crate) fn of(profile: &Profile, spawns: &[Spawn], now_ns: u64) -> Self {
        let mut roster = Self::new(profile);
        // A snapshot says who is a launcher.
        roster.rules.sees_use = true;
        for (seq, spawn) in (1..).zip(spawns) {
            let body = Body::Spawn(Box::new(spawn.clone()));
            let time = Timestamp::UNIX_EPOCH;
            roster.observe(&Record { v: FORMAT_VERSION, seq, time, boottime_ns: now_ns, body });
        }
        roster
    }

    /// One for the built-in profile that has seen nothing.
    #[cfg(test)]
    pub(crate) fn blank() -> Self {
        Self::new(&Profile::hermes())
    }

    /// Folds one record in. All of a recording are to be given, in order; findings and the stop
    /// change nothing.
    ///
    /// Time is the latest `boottime_ns` of any record: a record that is slightly late counts at its
    /// own moment, and never turns time back.
    pub fn observe(&mut self, record: &Record) {
        self.changed.clear();
        if matches!(record.body, Body::Finding(_) | Body::Stop(_)) {
            return;
        }
        self.now = self.now.max(record.boottime_ns);
        self.apply(record);
        self.retire();
    }

    /// How many workers there were and are.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Workers that live although their gateway was seen to exit.
    pub fn left_behind(&self) -> usize {
        self.left_behind.1
    }

    /// Processes that have not ended, as far as is known: workers, what descends from them, and
    /// gateways that have workers.
    pub(crate) fn living(&self) -> Vec<(Identity, Role)> {
        let workers = self.workers.values().filter(|worker| worker.exit().is_none());
        let workers = workers.map(|worker| (worker.id, Role::Worker));
        let descendants = self.descendants.keys().map(|id| (*id, Role::Descendant));
        let gateways = self.gateways.iter().filter(|(_, at)| at.exit.is_none());
        let gateways = gateways.filter(|(_, at)| !at.live.is_empty());
        let gateways = gateways.map(|(id, _)| (*id, Role::Gateway));
        let mut living: Vec<(Identity, Role)> =
            workers.chain(descendants).chain(gateways).collect();
        // A worker may be the gateway of others.
        living.sort_by_key(|(id, role)| (*id, *role != Role::Worker));
        living.dedup_by_key(|(id, _)| *id);
        living
    }

    /// Workers, and processes below them, that have ended and were not reaped.
    pub(crate) fn zombies(&self) -> Vec<Identity> {
        let workers = self.workers.values().filter(|worker| worker.exit().is_some());
        let workers = workers.filter(|worker| worker.zombie().is_some()).map(|worker| worker.id);
        let of = self.workers.values().map(|worker| worker.id);
        let below = of.flat_map(|id| self.zombies_below(id)).map(|(id, _)| id);
        workers.chain(below).collect()
    }

    /// Calls that live workers served, where they were counted.
    pub(crate) fn counted(&self) -> BTreeMap<Identity, u64> {
        let live = self.workers.values().filter(|worker| worker.is_live());
        live.filter_map(|worker| Some((worker.id, worker.activity.reads()?))).collect()
    }

    /// What the last record changed.
    pub(crate) fn changed(&self) -> &BTreeSet<Subject> {
        &self.changed
    }

    /// The workers that the last record changed.
    pub(crate) fn changed_workers(&self) -> impl Iterator<Item = Identity> + '_ {
        self.changed.iter().filter_map(|subject| match subject {
            Subject::Worker(id) => Some(*id),
            _ => None,
        })
    }

    /// A worker, live or not long ended; none if it is only a process that was once mentioned.
    pub(crate) fn worker(&self, id: Identity) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Whose a process is: a worker's real user id; for what descends from a worker that one's, and
    /// for a gateway that of a worker of its.
    pub(crate) fn owner(&self, id: Identity) -> Option<u32> {
        let of = |id: Identity| self.workers.get(&id).map(|worker| worker.uid);
        of(id)
            .or_else(|| of(self.descendants.get(&id)?.worker))
            .or_else(|| of(self.gateways.get(&id)?.births.first()?.1))
    }

    pub(crate) fn group(&self, key: &GroupKey) -> Option<&Group> {
        self.groups.get(key).map(|group| &**group)
    }

    pub(crate) fn gateway(&self, id: Identity) -> Option<&Gateway> {
        self.gateways.get(&id)
    }

    /// Since when a gateway that listens has had no client.
    pub(crate) fn clientless_since(&self, gateway: Identity) -> Option<Moment> {
        self.clientless.get(&gateway).copied()
    }

    pub(crate) fn memory(&self) -> Option<(Memory, u64)> {
        self.memory
    }

    pub(crate) fn reaper_stopped(&self, uid: Option<u32>) -> Option<&(u64, String)> {
        self.reaper_stopped.get(&uid)
    }

    /// Marks something as changed.
    fn touch(&mut self, subject: Subject) {
        self.changed.insert(subject);
    }

    /// Marks all that a worker's life bears on.
    fn touch_around(&mut self, id: Identity) {
        self.touch(Subject::Worker(id));
        let Some(worker) = self.workers.get(&id) else { return };
        let (key, gateway) = (worker.key(), worker.gateway_id());
        if let Some(key) = key {
            self.touch(Subject::Group(key));
        }
        if let Some(gateway) = gateway {
            self.touch(Subject::Gateway(gateway));
        }
    }
}
