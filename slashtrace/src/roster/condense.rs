//! On which records everything rests that is known at the end of many: who lives, whose it is, what it
//! did, what is open. They are far fewer than all, and folding them in comes to the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Roster, terminal::Key};
use crate::{
    model::{
        Body, Clients, FindingState, Identity, OutputPeer, Record, Role, Sample, Sockets, Spawn,
        StdinPeer, StdinState, TerminalEvent, TerminalState,
    },
    profile::Profile,
};

/// Changes of one worker's counts of reads that are kept, each with the sample before it: the first so
/// many, and as many of the last; and of its other work.
const RISES: usize = 8;
const WORK: usize = 2;
/// Changes of a terminal that are kept.
const CHANGES: usize = 12;
/// Looks at a gateway's clients that are kept, and those after the spawn of a worker.
const LOOKS: usize = 8;
const LOOKS_AFTER_SPAWN: u8 = 2;
/// Spawns and execs of one process that are kept.
const BIRTHS: usize = 4;
/// Workers of one session that are forked first: by these it is joined to a terminal.
const FIRST: usize = 4;
/// Ended workers whose records are kept.
const ENDED: usize = 512;
/// So often what is forgotten is let go of, records.
const SWEEP_EVERY: u64 = 4_096;
/// SIGKILL and SIGTERM (signal(7)).
const ENDING: [u8; 2] = [9, 15];

/// A few numbers of records: the first so many, and as many of the last.
#[derive(Debug, Default)]
struct Ends {
    first: Vec<u64>,
    last: VecDeque<u64>,
}

impl Ends {
    fn push(&mut self, seq: u64, most: usize) {
        if self.first.len() < most {
            self.first.push(seq);
            return;
        }
        self.last.push_back(seq);
        if self.last.len() > most {
            self.last.pop_front();
        }
    }

    fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.first.iter().chain(&self.last).copied()
    }
}

/// The samples of one process: for each value the one that gave it first.
#[derive(Debug, Default)]
struct Samples {
    first: Option<u64>,
    last: Option<u64>,
    /// The last value of each field, and since which sample it has it.
    values: BTreeMap<&'static str, (Value, u64)>,
    held: Option<u64>,
    unheld: Option<u64>,
    rises: Ends,
    work: Ends,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value {
    Number(u64),
    Stdin(StdinPeer),
    Output(OutputPeer),
    Sockets(Sockets),
}

impl Samples {
    fn take(&mut self, seq: u64, sample: &Sample) {
        self.first.get_or_insert(seq);
        let number = |value: Option<u64>| value.map(Value::Number);
        // By these it is told which calls it served: no other work may crowd them out.
        let read = self.put("syscr", number(sample.syscr), seq)
            | self.put("reads", number(sample.reads), seq)
            | self.put("below", number(sample.syscr_below), seq);
        let worked = self.put("cpu", number(sample.cpu_ms), seq);
        // From when on it may have worked is told by the sample before.
        for seq in self.last.into_iter().chain([seq]) {
            if read {
                self.rises.push(seq, RISES);
            } else if worked {
                self.work.push(seq, WORK);
            }
        }
        let state = Some(Value::Number(u64::from(u32::from(sample.state))));
        self.put("state", state, seq);
        self.put("rss", number(sample.rss_kib), seq);
        self.put("launchers", number(sample.launchers_rss_kib), seq);
        self.put("pss", number(sample.pss_kib), seq);
        self.put("threads", number(sample.threads.map(u64::from)), seq);
        self.put("stdin", sample.stdin.map(Value::Stdin), seq);
        self.put("output", sample.output.map(Value::Output), seq);
        self.put("sockets", sample.sockets.map(Value::Sockets), seq);
        if sample.stdin.is_some() || sample.output.is_some() {
            self.put("over-budget", Some(Value::Number(sample.over_budget.into())), seq);
        }
        if sample.waits && !self.values.contains_key("waits") {
            self.put("waits", Some(Value::Number(1)), seq);
        }
        match sample.stdin.map(|stdin| stdin.state) {
            Some(StdinState::Held) => {
                self.held.get_or_insert(seq);
                self.unheld = None;
            }
            Some(StdinState::Unheld | StdinState::Inherited) => {
                self.unheld.get_or_insert(seq);
            }
            Some(StdinState::Unknown) | None => {}
        }
        self.last = Some(seq);
    }

    /// Notes a value; whether it is another one than before.
    fn put(&mut self, name: &'static str, value: Option<Value>, seq: u64) -> bool {
        let Some(value) = value else { return false };
        let news = self.values.get(name).is_none_or(|(before, _)| *before != value);
        if news {
            self.values.insert(name, (value, seq));
        }
        news
    }

    fn all(&self) -> impl Iterator<Item = u64> + '_ {
        let single = [self.first, self.last, self.held, self.unheld].into_iter().flatten();
        let values = self.values.values().map(|(_, seq)| *seq);
        single.chain(values).chain(self.rises.all()).chain(self.work.all())
    }
}

/// The records of one process.
#[derive(Debug, Default)]
struct Kept {
    births: Ends,
    end: Option<u64>,
    signal: Option<u64>,
    samples: Samples,
    /// Looks at its gateway's clients around its spawn, and the reply to its thread.
    around: Ends,
}

impl Kept {
    fn all(&self) -> impl Iterator<Item = u64> + '_ {
        let single = self.end.into_iter().chain(self.signal);
        self.births.all().chain(single).chain(self.samples.all()).chain(self.around.all())
    }
}

/// The records of one terminal.
#[derive(Debug, Default)]
struct OfTerminal {
    changes: Ends,
    last: Option<TerminalEvent>,
    closed: Option<u64>,
}

/// The records of one gateway.
#[derive(Debug, Default)]
struct OfGateway {
    program: Option<u64>,
    looks: VecDeque<u64>,
    clientless: Option<u64>,
    /// Workers whose spawn so many looks are to follow.
    awaiting: Vec<(Identity, u8)>,
}

/// Reads records and says on which of them everything rests.
#[derive(Debug)]
pub(crate) struct Condenser {
    roster: Roster,
    processes: BTreeMap<Identity, Kept>,
    ends: BTreeMap<Identity, u64>,
    terminals: BTreeMap<Key, OfTerminal>,
    gateways: BTreeMap<Identity, OfGateway>,
    /// The workers that were forked first for a session of a gateway that serves several terminals.
    first: BTreeMap<(Identity, String), Vec<Identity>>,
    /// Who only launched, and whom: by that worker it is known to be a launcher.
    launched: BTreeMap<Identity, Identity>,
    findings: BTreeMap<String, u64>,
    memory: Option<u64>,
    records: u64,
}

impl Condenser {
    /// One for the workers of a profile.
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            roster: Roster::new(profile),
            processes: BTreeMap::new(),
            ends: BTreeMap::new(),
            terminals: BTreeMap::new(),
            gateways: BTreeMap::new(),
            first: BTreeMap::new(),
            launched: BTreeMap::new(),
            findings: BTreeMap::new(),
            memory: None,
            records: 0,
        }
    }

    /// What the records come to.
    pub(crate) fn into_roster(self) -> Roster {
        self.roster
    }

    /// Takes a record; all of them are to be given in order, those of a checkpoint one by one.
    pub(crate) fn take(&mut self, record: &Record) {
        self.roster.observe(record);
        let seq = record.seq;
        match &record.body {
            Body::Spawn(spawn) => self.spawned(seq, spawn),
            Body::Exec(exec) => {
                if let Some(kept) = self.processes.get_mut(&exec.identity()) {
                    kept.births.push(seq, BIRTHS);
                }
            }
            Body::Exit(exit) => {
                let id = exit.identity();
                if let Some(kept) = self.processes.get_mut(&id) {
                    kept.end = Some(seq);
                }
                self.ends.insert(id, seq);
            }
            Body::Signal(signal) if ENDING.contains(&signal.signal) => {
                if let Some(kept) = self.processes.get_mut(&signal.identity()) {
                    kept.signal = Some(seq);
                }
            }
            Body::Sample(sample) => {
                if let Some(kept) = self.processes.get_mut(&sample.identity()) {
                    kept.samples.take(seq, sample);
                    if sample.state == 'X' {
                        kept.end = kept.end.or(Some(seq));
                    }
                }
            }
            Body::Terminal(event) => self.terminal(seq, event),
            Body::Program(program) => {
                let id = Identity { pid: program.pid, start_ns: program.start_ns };
                self.gateways.entry(id).or_default().program = Some(seq);
            }
            Body::Clients(clients) => self.clients(seq, clients),
            Body::Reply(reply) => {
                if let Some(kept) = self.processes.get_mut(&reply.worker) {
                    kept.around.push(seq, BIRTHS);
                }
            }
            Body::Tick(tick) if tick.memory.is_some() => self.memory = Some(seq),
            Body::Finding(finding) => {
                if finding.state == FindingState::Closed {
                    self.findings.remove(&finding.id);
                } else {
                    self.findings.insert(finding.id.clone(), seq);
                }
            }
            _ => {}
        }
        self.records += 1;
        if self.records.is_multiple_of(SWEEP_EVERY) {
            self.sweep();
        }
    }

    fn spawned(&mut self, seq: u64, spawn: &Spawn) {
        let id = spawn.identity();
        let kept = self.processes.entry(id).or_default();
        kept.births.push(seq, BIRTHS);
        let above = spawn.parent.as_ref().map(|parent| parent.process.identity());
        if let Some(above) = above
            && self.roster.worker(above).is_some_and(|above| above.launcher)
        {
            self.launched.entry(above).or_insert(id);
        }
        let worker = self.roster.worker(id).filter(|_| spawn.role == Role::Worker);
        let Some(gateway) = worker.and_then(super::Worker::gateway_id) else { return };
        let of_gateway = self.gateways.entry(gateway).or_default();
        if let Some(look) = of_gateway.looks.back() {
            kept.around.push(*look, BIRTHS);
        }
        of_gateway.awaiting.push((id, LOOKS_AFTER_SPAWN));
        if let (Some(_), Some(session)) = (&spawn.thread, &spawn.session) {
            let first = self.first.entry((gateway, session.clone())).or_default();
            if first.len() < FIRST && !first.contains(&id) {
                first.push(id);
            }
        }
    }

    fn terminal(&mut self, seq: u64, event: &TerminalEvent) {
        let key = (event.instance, event.index, event.opened_ns);
        let known = self.terminals.entry(key).or_default();
        if event.state == TerminalState::Closed {
            known.closed = known.closed.or(Some(seq));
        }
        if known.last.as_ref() != Some(event) {
            known.changes.push(seq, CHANGES);
            known.last = Some(event.clone());
        }
    }

    fn clients(&mut self, seq: u64, clients: &Clients) {
        let gateway = self.gateways.entry(clients.identity()).or_default();
        gateway.looks.push_back(seq);
        if gateway.looks.len() > LOOKS {
            gateway.looks.pop_front();
        }
        if clients.complete && clients.listening > 0 && clients.connected == 0 {
            gateway.clientless.get_or_insert(seq);
        } else {
            gateway.clientless = None;
        }
        for (id, left) in &mut gateway.awaiting {
            if let Some(kept) = self.processes.get_mut(id) {
                kept.around.push(seq, BIRTHS);
            }
            *left -= 1;
        }
        gateway.awaiting.retain(|(_, left)| *left > 0);
    }

    /// Lets go of what can be needed no more.
    fn sweep(&mut self) {
        let needed = self.needed();
        let roster = &self.roster;
        let known = |id: &Identity| {
            needed.contains(id) || roster.worker(*id).is_some() || roster.descendant(*id).is_some()
        };
        let gateways = |id: &Identity| {
            let known = roster.gateway(*id).is_some() || roster.clientless.contains_key(id);
            known || needed.contains(id)
        };
        self.gateways.retain(|id, _| gateways(id));
        self.first.retain(|(gateway, _), _| gateways(gateway));
        self.launched.retain(|launcher, _| roster.worker(*launcher).is_some());
        self.ends.retain(|id, _| needed.contains(id) || roster.ends.get(*id).is_some());
        self.terminals.retain(|key, it| it.closed.is_none() || roster.knows_terminal(*key));
        self.processes.retain(|id, _| known(id));
    }

    /// The processes whose records are needed: workers that have not ended or that something
    /// outlives, what descends from them, who is above them, and ended ones by which others are judged.
    fn needed(&self) -> BTreeSet<Identity> {
        let roster = &self.roster;
        let mut needed = BTreeSet::new();
        for worker in roster.workers.values() {
            let id = worker.id;
            let outlived = roster.family(id).is_some() || roster.has_zombies_below(id);
            if worker.exit().is_some() && worker.zombie().is_none() && !outlived {
                continue;
            }
            needed.insert(id);
            needed.extend(worker.above.iter().copied());
            needed.extend(worker.gateway_id());
            let rare = worker.rare();
            needed.extend(rare.launchers.iter().copied());
            needed.extend(self.launched.get(&id));
            needed.extend(rare.survived.map(|survived| survived.id));
            needed.extend(rare.witness.map(|witness| witness.id));
            needed.extend(roster.zombies_below(id).map(|(zombie, _)| zombie));
            let gateway = worker.gateway_id().and_then(|id| roster.gateway(id));
            let forker = gateway.and_then(|gateway| gateway.forker.as_ref());
            needed.extend(forker.map(|forker| forker.process.identity()));
            for below in roster.family(id).into_iter().flatten() {
                needed.insert(*below);
                needed.extend(roster.descendant(*below).and_then(|below| below.parent));
            }
            if let (Some(gateway), Some(session)) = (worker.gateway_id(), &worker.session) {
                let first = self.first.get(&(gateway, session.to_string()));
                needed.extend(first.into_iter().flatten().copied());
            }
        }
        needed.extend(self.ended());
        needed
    }

    /// The newest of those that have ended and are remembered, by which others are judged: they served
    /// while another did not, were replaced, or claim a terminal.
    fn ended(&self) -> Vec<Identity> {
        let workers = self.roster.workers.values();
        let ended = workers.filter_map(|worker| Some((worker.exit()?.at, worker.id)));
        let mut ended: Vec<(u64, Identity)> = ended.collect();
        ended.sort_unstable();
        ended.into_iter().rev().take(ENDED).map(|(_, id)| id).collect()
    }

    /// The `seq`s of the records on which everything rests.
    pub(crate) fn chosen(&self) -> BTreeSet<u64> {
        let needed = self.needed();
        let mut chosen: BTreeSet<u64> = self.findings.values().copied().collect();
        chosen.extend(self.memory);
        for id in &needed {
            chosen.extend(self.processes.get(id).into_iter().flat_map(Kept::all));
            let worker = self.roster.worker(*id);
            chosen.extend(worker.into_iter().flat_map(|worker| worker.activity.rise_seqs()));
            chosen.extend(self.ends.get(id));
            if let Some(gateway) = self.gateways.get(id) {
                chosen.extend(gateway.program.into_iter().chain(gateway.clientless));
                chosen.extend(&gateway.looks);
            }
        }
        // It may have workers in a moment.
        let clientless =
            self.gateways.iter().filter(|(id, _)| self.roster.clientless.contains_key(id));
        chosen.extend(clientless.filter_map(|(_, gateway)| gateway.clientless));
        for (key, terminal) in &self.terminals {
            if self.roster.knows_terminal(*key) {
                chosen.extend(terminal.changes.all().chain(terminal.closed));
            }
        }
        chosen
    }
}

/// Every record on its own: those of a checkpoint one by one.
pub(crate) fn flat(record: Record) -> Vec<Record> {
    match record.body {
        Body::Checkpoint(checkpoint) => checkpoint.records,
        _ => vec![record],
    }
}
