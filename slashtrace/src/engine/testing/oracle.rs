//! Made-up worlds in which it is known who can still use each worker, with the engine, the judge
//! and an executor in them: nobody in use is ended, and whoever is left behind is.
//!
//! A user holds a session through a client of its gateway, with or without a terminal; the session
//! holds one worker. A race makes a second worker, and the session goes on with either: the other one
//! is lost. A gateway that becomes a daemon ends and goes on in its child, with its pipes. One may be
//! started in a terminal: that of the tab it is for, whose users go with it, or any other's.

mod steps;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use self::steps::{Below, Step, step};
use super::{
    driver::Driver,
    scenario::S,
    world::{clients, exit, sample},
};
use crate::{
    model::{
        Body, FindingState, FindingWorker, Identity, Kind, Mode, Outcome, Role, Sample, StdinPeer,
        StdinState, Step as Act, TerminalEvent, TerminalState,
        testing::{process, spawn, terminal},
    },
    profile::Profile,
    reaper::{Decision, Judge, Policy, Trigger},
    roster::Roster,
};

const DAY: u64 = 86_400 * S;

/// The terminal that a gateway was started in.
struct Around {
    below: Below,
    dashboard: Identity,
    /// None once it is closed.
    terminal: Option<TerminalEvent>,
}

struct Worker {
    /// Which gateway's pipe its stdin is; a daemon's child has it as well.
    gateway: u32,
    forked_by: Identity,
    calls: u64,
    protected: bool,
}

struct Session {
    gateway: u32,
    key: u8,
    worker: Identity,
    user: bool,
    terminal: Option<TerminalEvent>,
    /// Whether two workers were made for it, so that it stays with what it has.
    raced: bool,
}

struct Users {
    driver: Driver,
    judge: Judge,
    /// As of the last record that the judge was given.
    roster: Roster,
    /// Records that the judge was given.
    given: usize,
    now: u64,
    next_pid: u32,
    next_index: u32,
    /// The process that each gateway is now; none while it is not started again.
    gateways: BTreeMap<u32, Option<Identity>>,
    around: BTreeMap<u32, Around>,
    workers: BTreeMap<Identity, Worker>,
    sessions: Vec<Session>,
}

impl Users {
    fn new(triggers: Vec<Trigger>) -> Self {
        let policy = Policy {
            mode: Mode::Enforce,
            triggers,
            budget_per_minute: u32::MAX,
            ..Policy::default()
        };
        Self {
            driver: Driver::new(),
            judge: Judge::new(policy),
            roster: Roster::new(&Profile::hermes()),
            given: 0,
            now: 10 * S,
            next_pid: 1_000,
            next_index: 0,
            gateways: BTreeMap::new(),
            around: BTreeMap::new(),
            workers: BTreeMap::new(),
            sessions: Vec::new(),
        }
    }

    /// Whether a user can still have it do something: what the tracer cannot ask.
    fn in_use(&self, worker: Identity) -> bool {
        self.sessions.iter().any(|it| it.worker == worker && it.user && self.lives(it.gateway))
    }

    fn lives(&self, gateway: u32) -> bool {
        self.gateways.get(&gateway).is_some_and(Option::is_some)
    }

    fn held(&self, worker: &Worker) -> bool {
        self.lives(worker.gateway)
    }

    fn fresh(&mut self) -> Identity {
        self.next_pid += 1;
        Identity { pid: self.next_pid, start_ns: self.now }
    }

    fn tell(&mut self, body: Body) {
        self.now += 1_000;
        self.driver.feed(self.now, body);
        self.give();
    }

    fn give(&mut self) {
        for record in &self.driver.records[self.given..] {
            self.roster.observe(record);
            self.judge.observe(record, &self.roster);
        }
        self.given = self.driver.records.len();
    }

    /// Lets time pass, with the engine's ticks and the reaper's decisions when they are due.
    fn pass(&mut self, until: u64) {
        loop {
            self.act();
            let due = [self.driver.next_deadline(), self.judge.next_deadline()];
            let Some(due) = due.into_iter().flatten().min().filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            self.tell(Body::Tick(crate::model::Tick::default()));
        }
        self.now = self.now.max(until);
    }

    /// The reaper decides, checks as the executor does, and ends.
    fn act(&mut self) {
        for decision in self.judge.decide(self.now, &self.roster) {
            let id = decision.worker;
            let worker = &self.workers[&id];
            let orphaned = decision
                .gateway
                .is_some_and(|gateway| !self.gateways.values().flatten().any(|it| *it == gateway));
            let asks = orphaned || matches!(decision.kind, Kind::GatewayOrphan | Kind::Unreachable);
            if worker.protected || (asks && self.held(worker)) {
                self.say(&decision, Act::Refuse, Outcome::Refused);
                continue;
            }
            assert!(!self.in_use(id), "in use: {decision:?}");
            self.say(&decision, Act::Terminate, Outcome::Sent);
            self.end(id);
            self.say(&decision, Act::Result, Outcome::Exited);
        }
    }

    fn say(&mut self, decision: &Decision, step: Act, outcome: Outcome) {
        self.tell(Body::Action(Box::new(decision.done(step, outcome, ""))));
    }

    fn end(&mut self, id: Identity) {
        if self.workers.remove(&id).is_some() {
            self.tell(exit(id, Role::Worker));
        }
    }

    fn fork(&mut self, gateway: u32, key: u8) -> Identity {
        let forked_by = match self.gateways.get(&gateway).copied().flatten() {
            Some(id) => id,
            None => self.fresh(),
        };
        self.gateways.insert(gateway, Some(forked_by));
        let id = self.fresh();
        let mut body = spawn(id).forked_by(forked_by).session(&format!("key-{key}"));
        if let Some(around) = self.around.get(&gateway)
            && let Some(terminal) = &around.terminal
        {
            body.terminal = Some(terminal.place());
            body.opener = match around.below {
                Below::Tab => Some(process(around.dashboard)),
                Below::Shell => None,
                Below::OthersTab => Some(process(forked_by)),
            };
        }
        let protected = id.pid.is_multiple_of(7);
        body.uid = u32::from(protected);
        self.tell(body.into());
        self.workers.insert(id, Worker { gateway, forked_by, calls: 0, protected });
        self.tell(sample(id, |sample| sample.reads = Some(0)));
        id
    }

    /// The sampler tells of what changed in who is connected.
    fn count_clients(&mut self, gateway: u32) {
        let Some(id) = self.gateways.get(&gateway).copied().flatten() else { return };
        let users = self.sessions.iter().filter(|it| it.gateway == gateway && it.user).count();
        self.tell(clients(id, 1, users as u32, true));
    }

    fn open_terminal(&mut self, gateway: u32, session: Option<u8>) -> TerminalEvent {
        let master = match self.gateways.get(&gateway).copied().flatten() {
            Some(id) => id,
            None => self.fresh(),
        };
        self.gateways.insert(gateway, Some(master));
        self.open_terminal_of(master, session)
    }

    fn open_terminal_of(&mut self, master: Identity, session: Option<u8>) -> TerminalEvent {
        self.next_index += 1;
        let event = TerminalEvent {
            master: Some(process(master)),
            session: session.map(|key| format!("key-{key}")),
            ..terminal(self.next_index, self.now)
        };
        self.tell(Body::Terminal(Box::new(event.clone())));
        event
    }

    fn close_terminal(&mut self, terminal: Option<TerminalEvent>) {
        if let Some(mut event) = terminal {
            event.state = TerminalState::Closed;
            self.tell(Body::Terminal(Box::new(event)));
        }
    }

    fn look(&mut self) {
        let all: Vec<(Identity, bool)> =
            self.workers.iter().map(|(id, worker)| (*id, self.held(worker))).collect();
        for (id, held) in all {
            let state = if held { StdinState::Held } else { StdinState::Unheld };
            let stdin = Some(StdinPeer { kind: None, state, holder: None });
            self.tell(sample(id, |sample: &mut Sample| sample.stdin = stdin));
        }
    }

    fn nth(&self, n: usize) -> Option<usize> {
        (!self.sessions.is_empty()).then(|| n % self.sessions.len().max(1))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(ms) => self.pass(self.now + ms * 1_000_000),
            Step::Open { gateway, key, terminal } => self.open(gateway, key, terminal),
            Step::Call(n) => {
                let Some(at) = self.nth(n).filter(|at| self.sessions[*at].user) else { return };
                let id = self.sessions[at].worker;
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.calls += 1;
                let calls = worker.calls;
                self.tell(sample(id, |sample| sample.reads = Some(calls)));
            }
            Step::Race { session, moves } => {
                let Some(at) = self.nth(session).filter(|at| !self.sessions[*at].raced) else {
                    return;
                };
                let Session { gateway, key, .. } = self.sessions[at];
                let second = self.fork(gateway, key);
                self.sessions[at].raced = true;
                if moves {
                    self.sessions[at].worker = second;
                }
            }
            Step::Restart(n) => {
                let Some(at) = self.nth(n) else { return };
                let Session { gateway, key, worker, .. } = self.sessions[at];
                self.end(worker);
                self.sessions[at].worker = self.fork(gateway, key);
            }
            Step::Leave(n) => {
                let Some(at) = self.nth(n) else { return };
                self.sessions[at].user = false;
                let terminal = self.sessions[at].terminal.take();
                self.close_terminal(terminal);
                self.count_clients(self.sessions[at].gateway);
            }
            Step::Close { session, leaks } => {
                let Some(at) = self.nth(session) else { return };
                let session = self.sessions.remove(at);
                self.close_terminal(session.terminal);
                if !leaks {
                    self.end(session.worker);
                }
                self.count_clients(session.gateway);
            }
            Step::Kill(gateway) => {
                let Some(id) = self.gateways.insert(gateway, None).flatten() else { return };
                self.tell(exit(id, Role::Gateway));
                let around = self.around.remove(&gateway);
                self.close_terminal(around.and_then(|around| around.terminal));
                let (gone, stay) = std::mem::take(&mut self.sessions)
                    .into_iter()
                    .partition(|it| it.gateway == gateway);
                self.sessions = stay;
                let gone: Vec<Session> = gone;
                for session in gone {
                    self.close_terminal(session.terminal);
                }
            }
            Step::Daemonize(gateway) => {
                let Some(id) = self.gateways.get(&gateway).copied().flatten() else { return };
                let child = self.fresh();
                self.gateways.insert(gateway, Some(child));
                self.tell(exit(id, Role::Gateway));
            }
            Step::Start { gateway, below } => {
                if self.lives(gateway) {
                    return;
                }
                let dashboard = self.fresh();
                let terminal = Some(self.open_terminal_of(dashboard, None));
                self.around.insert(gateway, Around { below, dashboard, terminal });
                let id = self.fresh();
                self.gateways.insert(gateway, Some(id));
            }
            Step::HangUp(gateway) => {
                let Some(around) = self.around.get_mut(&gateway) else { return };
                let Some(terminal) = around.terminal.take() else { return };
                let with_users = around.below == Below::Tab;
                self.close_terminal(Some(terminal));
                for session in &mut self.sessions {
                    session.user &= !(with_users && session.gateway == gateway);
                }
                self.count_clients(gateway);
            }
            Step::Exit(n) => {
                let ids: Vec<Identity> = self.workers.keys().copied().collect();
                if let Some(id) = ids.get(n % ids.len().max(1)) {
                    self.end(*id);
                }
            }
            Step::Look => self.look(),
        }
        self.act();
    }

    fn open(&mut self, gateway: u32, key: u8, terminal: Option<bool>) {
        // Nobody comes back to a tab that was closed.
        let closed = |it: &Around| it.below == Below::Tab && it.terminal.is_none();
        if self.around.get(&gateway).is_some_and(closed) {
            return;
        }
        let known = self.sessions.iter().position(|it| it.gateway == gateway && it.key == key);
        // One user a session. Who comes back to a worker that lives has it shown on a terminal.
        if known.is_some_and(|at| self.sessions[at].user) {
            return;
        }
        let back = known.is_some();
        let was_shown =
            back && self.workers.contains_key(&self.sessions[known.unwrap_or(0)].worker);
        let terminal = terminal
            .or(was_shown.then_some(true))
            .map(|names| self.open_terminal(gateway, (names || back).then_some(key)));
        if let Some(at) = known {
            if !self.workers.contains_key(&self.sessions[at].worker) {
                self.sessions[at].worker = self.fork(gateway, key);
            }
            self.sessions[at].user = true;
            self.sessions[at].terminal = terminal;
        } else {
            let worker = self.fork(gateway, key);
            let (user, raced) = (true, false);
            self.sessions.push(Session { gateway, key, worker, user, terminal, raced });
        }
        self.count_clients(gateway);
    }

    /// A day later: who is left that should not be.
    fn settle(&mut self) {
        self.look();
        self.look();
        self.pass(DAY * 2);
        let policy = self.judge.policy().clone();
        let open = self.driver.open.values().filter(|it| it.state != FindingState::Closed);
        let covered = open.filter(|it| policy.triggers_on(it.kind, it.confidence));
        let unused = covered.flat_map(|it| &it.workers).filter(|worker| worker.unused);
        let mut left: Vec<Identity> = unused.map(FindingWorker::identity).collect();
        // And whatever was found: nobody can talk to these.
        let orphans = self.workers.iter().filter(|(_, it)| !self.held(it)).map(|(id, _)| *id);
        left.extend(orphans);
        for id in left {
            let worker = &self.workers[&id];
            let gateway = self.gateways.values().flatten().any(|it| *it == worker.forked_by);
            let spared = worker.protected || (!gateway && self.held(worker));
            assert!(spared, "{id:?} is left: {:?}", self.driver.open);
        }
    }
}

fn any_surely() -> Vec<Trigger> {
    let least = crate::model::Confidence::Strong;
    Trigger::KINDS.map(|kind| Trigger { kind, least }).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn nobody_in_use_is_ended_and_whoever_is_left_behind_is(
        steps in vec(step(), 0..80),
        all in any::<bool>(),
    ) {
        let triggers = if all { any_surely() } else { Policy::default().triggers };
        let mut users = Users::new(triggers);
        for step in &steps {
            users.step(step);
        }
        users.settle();
    }
}

/// That the worlds have in them what they are made for.
#[test]
fn the_worlds_have_many_ends_and_many_refusals() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut ended: BTreeMap<Kind, u32> = BTreeMap::new();
    let mut refused = 0;
    for _ in 0..64 {
        let steps = vec(step(), 80).new_tree(&mut runner).unwrap().current();
        let mut users = Users::new(any_surely());
        for step in &steps {
            users.step(step);
        }
        users.settle();
        for record in &users.driver.records {
            let Body::Action(action) = &record.body else { continue };
            match (action.step, action.kind) {
                (Act::Result, Some(kind)) => *ended.entry(kind).or_default() += 1,
                (Act::Refuse, _) => refused += 1,
                _ => {}
            }
        }
    }
    for kind in [Kind::GatewayOrphan, Kind::TerminalOrphan, Kind::LostWorker, Kind::Abandoned] {
        assert!(ended.get(&kind).is_some_and(|count| *count >= 5), "{ended:?}");
    }
    assert!(refused >= 5, "{refused}");
}
