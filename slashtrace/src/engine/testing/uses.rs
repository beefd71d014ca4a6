//! Made-up worlds of other shapes than hermes-agent's: launchers, forkers that pass through, tasks,
//! workers that are asked over sockets or whose child serves, pipes whose ends were inherited by
//! others. It is known in them who uses each worker; nobody in use is ever called unused, or ended.
//!
//! In use is a worker that a live process means to ask something of and can; whose result somebody
//! waits for; that is connected; or that works on a task of its own.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::{driver::Driver, scenario::S};
use crate::{
    model::{
        Body, Capability, Confidence, EndKind, FindingState, FindingWorker, Identity, Kind, Mode,
        Outcome, OutputPeer, OutputState, Role, Sample, Sockets, StdinPeer, StdinState,
        Step as Act, USE_CAPABILITY,
        testing::{exit, process, sample, spawn, start},
    },
    profile::{Channel, Profile},
    reaper::{Decision, Judge, Policy, Trigger},
    roster::Roster,
};

const GATEWAYS: usize = 3;

/// How a worker is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    Direct,
    /// By `npm exec`, which waits for it.
    Launcher,
    /// By a shell's `&`: the forker ends a moment later.
    Passing,
    /// By a forker that had ended before the worker executed.
    Gone,
    /// By a copy of the gateway that executed nothing and stays.
    Copy,
}

#[derive(Clone, Debug)]
enum Step {
    Spawn {
        gateway: usize,
        session: u8,
        how: How,
        stdin: EndKind,
        closed: bool,
        output: EndKind,
        listens: bool,
        inherits: bool,
    },
    /// Its caller has it do something, or its child if it is a wrapper.
    Call(usize, bool),
    /// Its caller closes its stdin, and waits for the result or not.
    CloseStdin(usize, bool),
    /// The gateway forgets it and keeps all it has of it.
    Forget(usize),
    /// It works on a task of its own for a while.
    Task(usize, u64),
    Connect(usize),
    Disconnect(usize),
    /// A second worker of its session; the session goes on with it or stays.
    Race(usize, bool),
    Kill(usize),
    EndLauncher(usize),
    Exit(usize),
    Blind(usize),
    Wait(u64),
}

#[derive(Debug)]
struct Worker {
    gateway: Identity,
    session: u8,
    launcher: Option<Identity>,
    stdin: EndKind,
    /// Who can write to it, outside of its own tree.
    holders: BTreeSet<Identity>,
    /// Later workers that inherited the write end.
    heirs: BTreeSet<Identity>,
    output: EndKind,
    readers: BTreeSet<Identity>,
    listens: bool,
    connected: u32,
    caller: Option<Identity>,
    awaited: bool,
    busy_until: u64,
    syscr: u64,
    below: u64,
    cpu_ms: u64,
}

struct World {
    driver: Driver,
    judge: Judge,
    roster: Roster,
    given: usize,
    said: usize,
    channel: Option<Channel>,
    now: u64,
    next_pid: u32,
    gateways: [Option<Identity>; GATEWAYS],
    alive: BTreeSet<Identity>,
    workers: BTreeMap<Identity, Worker>,
}

fn profile(channel: Option<Channel>) -> Profile {
    let channel = channel
        .map_or(String::new(), |channel| format!("channel = {}", serde_json::json!(channel)));
    let text = format!(
        "name = \"w\"\n[worker]\ntokens = [\"-m\", \"w\"]\nsession_flag = \"--session\"\n{channel}\n"
    );
    Profile::parse(&text).expect("a profile")
}

impl World {
    fn new(channel: Option<Channel>) -> Self {
        let profile = profile(channel);
        let least = Confidence::Strong;
        let policy = Policy {
            mode: Mode::Enforce,
            triggers: Trigger::KINDS.map(|kind| Trigger { kind, least }).to_vec(),
            budget_per_minute: u32::MAX,
            ..Policy::default()
        };
        let mut world = Self {
            driver: Driver::of(&profile),
            judge: Judge::new(policy),
            roster: Roster::new(&profile),
            given: 0,
            said: 0,
            channel,
            now: 10 * S,
            next_pid: 1_000,
            gateways: [None; GATEWAYS],
            alive: BTreeSet::new(),
            workers: BTreeMap::new(),
        };
        let mut start = start();
        start.capabilities.push(Capability {
            name: USE_CAPABILITY.to_owned(),
            ok: true,
            detail: String::new(),
        });
        start.calls_counted = false;
        start.profile = profile;
        world.tell(Body::Start(Box::new(start)));
        world
    }

    fn asks(&self, channel: Channel) -> bool {
        self.channel.is_none_or(|it| it == channel)
    }

    /// What the tracer cannot ask.
    fn in_use(&self, id: Identity) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let caller = worker.caller.is_some_and(|caller| worker.holders.contains(&caller));
        let awaited = worker.awaited && !worker.readers.is_empty();
        let task = worker.busy_until > self.now;
        let socket = self.asks(Channel::Socket) && worker.connected > 0;
        (caller && self.asks(Channel::Stdin)) || awaited || socket || task
    }

    fn fresh(&mut self) -> Identity {
        self.next_pid += 1;
        let id = Identity { pid: self.next_pid, start_ns: self.now };
        self.alive.insert(id);
        id
    }

    fn tell(&mut self, body: Body) {
        self.now += 1_000;
        self.driver.feed(self.now, body);
        for record in &self.driver.records[self.given..] {
            self.roster.observe(record);
            self.judge.observe(record, &self.roster);
        }
        self.given = self.driver.records.len();
        for finding in &self.driver.said[self.said..] {
            if finding.confidence < Confidence::Strong || finding.state == FindingState::Closed {
                continue;
            }
            for worker in finding.workers.iter().filter(|worker| worker.unused) {
                let id = FindingWorker::identity(worker);
                assert!(!self.in_use(id), "in use: {finding:?} of {:?}", self.workers[&id]);
            }
        }
        self.said = self.driver.said.len();
    }

    fn pass(&mut self, until: u64) {
        loop {
            self.act();
            let due = [self.driver.next_deadline(), self.judge.next_deadline()];
            let busy = self.workers.values().map(|worker| worker.busy_until);
            let round = busy.filter(|&until| until > self.now).min().map(|_| self.now + 2 * S);
            let due = due.into_iter().flatten().chain(round).min();
            let Some(due) = due.filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.work();
            self.tell(Body::Tick(crate::model::Tick::default()));
        }
        self.now = self.now.max(until);
    }

    /// Those that are busy use the CPU, and are sampled.
    fn work(&mut self) {
        let busy: Vec<Identity> = self
            .workers
            .iter_mut()
            .filter(|(_, worker)| worker.busy_until > self.now)
            .map(|(id, worker)| {
                worker.cpu_ms += 100;
                *id
            })
            .collect();
        for id in busy {
            self.look(id);
        }
    }

    /// The reaper decides, and asks the machine again as the executor does.
    fn act(&mut self) {
        for decision in self.judge.decide(self.now, &self.roster) {
            let id = decision.worker;
            let Some(worker) = self.workers.get(&id) else { continue };
            let orphaned = decision.gateway.is_some_and(|gateway| !self.alive.contains(&gateway));
            let asks = orphaned || matches!(decision.kind, Kind::GatewayOrphan | Kind::Unreachable);
            if asks && !worker.holders.is_empty() {
                self.say(&decision, Act::Refuse, Outcome::Refused);
                continue;
            }
            assert!(!self.in_use(id), "would end {worker:?}, which is used: {decision:?}");
            self.say(&decision, Act::Terminate, Outcome::Sent);
            self.end(id);
            self.say(&decision, Act::Result, Outcome::Exited);
        }
    }

    fn say(&mut self, decision: &Decision, step: Act, outcome: Outcome) {
        self.tell(Body::Action(Box::new(decision.done(step, outcome, ""))));
    }

    /// A process ends: what it held is let go.
    fn end(&mut self, id: Identity) {
        self.die(id, Role::Worker, Some(0));
    }

    fn die(&mut self, id: Identity, role: Role, code: Option<u8>) {
        if !self.alive.remove(&id) {
            return;
        }
        self.workers.remove(&id);
        let mut changed = Vec::new();
        for (other, worker) in &mut self.workers {
            let held = worker.holders.remove(&id) | worker.heirs.remove(&id);
            if held | worker.readers.remove(&id) {
                changed.push(*other);
            }
        }
        let mut exit = exit(id);
        exit.role = role;
        (exit.code, exit.signal) = (code, if code.is_none() { Some(9) } else { None });
        self.tell(Body::Exit(exit));
        for other in changed {
            self.look(other);
        }
    }

    /// A round of the sampler, for one worker.
    fn look(&mut self, id: Identity) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // Whoever is busy has used the CPU whenever it is looked at.
        worker.cpu_ms += if worker.busy_until > now { 50 } else { 0 };
        let worker = &*worker;
        let state = match worker.stdin {
            EndKind::Pipe if !worker.holders.is_empty() => StdinState::Held,
            EndKind::Pipe if !worker.heirs.is_empty() => StdinState::Inherited,
            EndKind::Pipe => StdinState::Unheld,
            _ => StdinState::Unknown,
        };
        let reads = worker.readers.first().copied();
        let seen = match worker.output {
            EndKind::Pipe if reads.is_some() => OutputState::Read,
            EndKind::Pipe => OutputState::Unread,
            _ => OutputState::Unknown,
        };
        let holder = worker.holders.first().copied();
        let sockets = Sockets {
            listening: u32::from(worker.listens),
            connected: worker.connected,
            complete: true,
        };
        let sample = Sample {
            stdin: Some(StdinPeer { kind: Some(worker.stdin), state, holder }),
            output: Some(OutputPeer { kind: worker.output, state: seen, reader: reads }),
            sockets: (self.channel != Some(Channel::Stdin)).then_some(sockets),
            syscr: Some(worker.syscr),
            syscr_below: Some(worker.below),
            cpu_ms: Some(worker.cpu_ms),
            ..sample(id)
        };
        self.tell(Body::Sample(sample));
    }

    fn gateway(&mut self, n: usize) -> Identity {
        if let Some(id) = self.gateways[n] {
            return id;
        }
        let id = self.fresh();
        self.gateways[n] = Some(id);
        id
    }

    fn nth(&self, n: usize) -> Option<Identity> {
        self.workers.keys().nth(n % self.workers.len().max(1)).copied()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Spawn { gateway, session, .. } => {
                // One of a session that somebody uses: a second one is made by a race.
                let at = self.gateways[gateway];
                let there = |it: &Worker| Some(it.gateway) == at && it.session == session;
                if !self.workers.values().any(there) {
                    self.spawn(step);
                }
            }
            Step::Wait(ms) => self.pass(self.now + ms * 1_000_000),
            Step::Kill(n) => {
                let Some(id) = self.gateways[n].take() else { return };
                self.die(id, Role::Gateway, None);
            }
            Step::Call(n, below) => self.of(n, |worker| {
                if worker.caller.is_some_and(|caller| worker.holders.contains(&caller)) {
                    *(if below { &mut worker.below } else { &mut worker.syscr }) += 3;
                }
            }),
            Step::CloseStdin(n, waits) => self.of(n, |worker| {
                worker.holders.clear();
                worker.awaited = waits && worker.caller.take().is_some();
            }),
            Step::Forget(n) => self.of(n, |worker| {
                worker.caller = None;
                worker.awaited = false;
            }),
            Step::Task(n, ms) => {
                let until = self.now + ms * 1_000_000;
                self.of(n, |worker| {
                    worker.busy_until = until;
                    worker.cpu_ms += 100;
                });
            }
            Step::Connect(n) => self.of(n, |worker| worker.connected += u32::from(worker.listens)),
            Step::Disconnect(n) => self.of(n, |worker| worker.connected = 0),
            Step::Race(n, moves) => {
                let Some(id) = self.nth(n) else { return };
                let Worker { gateway, session, .. } = self.workers[&id];
                let Some(at) = self.gateways.iter().position(|it| *it == Some(gateway)) else {
                    return;
                };
                self.spawn(&Step::Spawn {
                    gateway: at,
                    session,
                    how: How::Direct,
                    stdin: EndKind::Pipe,
                    closed: false,
                    output: EndKind::Pipe,
                    listens: false,
                    inherits: false,
                });
                // One of a session is asked: the new one, or whichever was.
                let new = self.workers.keys().next_back().copied();
                for (id, worker) in &mut self.workers {
                    let same = (worker.gateway, worker.session) == (gateway, session);
                    if same && (Some(*id) == new) != moves {
                        worker.caller = None;
                        worker.awaited = false;
                    }
                }
            }
            Step::EndLauncher(n) => {
                let launcher = self.nth(n).and_then(|id| self.workers[&id].launcher);
                if let Some(launcher) = launcher {
                    self.die(launcher, Role::Gateway, None);
                }
            }
            Step::Exit(n) => {
                if let Some(id) = self.nth(n) {
                    self.end(id);
                }
            }
            Step::Blind(n) => {
                let Some(id) = self.nth(n) else { return };
                let kind = Some(self.workers[&id].stdin);
                let stdin = StdinPeer { kind, state: StdinState::Unknown, holder: None };
                self.tell(Body::Sample(Sample { stdin: Some(stdin), ..sample(id) }));
            }
        }
        self.act();
    }

    fn of(&mut self, n: usize, change: impl FnOnce(&mut Worker)) {
        let Some(id) = self.nth(n) else { return };
        if let Some(worker) = self.workers.get_mut(&id) {
            change(worker);
        }
        self.look(id);
    }

    fn spawn(&mut self, step: &Step) {
        let Step::Spawn { gateway, session, how, stdin, closed, output, listens, inherits } = *step
        else {
            return;
        };
        let gateway = self.gateway(gateway);
        let forker = match how {
            How::Direct => gateway,
            _ => self.fresh(),
        };
        let id = self.fresh();
        let mut body = spawn(id).forked_by(forker).session(&format!("key-{session}"));
        let parent = body.parent.as_mut().expect("it was just set");
        match how {
            How::Direct => {}
            How::Launcher => parent.process.launcher = Some("npm exec".to_owned()),
            How::Passing => parent.process.comm = "sh".to_owned(),
            How::Gone => parent.gone = true,
            How::Copy => parent.forked_only = true,
        }
        if how == How::Gone {
            parent.forker = Some(process(gateway));
            self.alive.remove(&forker);
        } else if how != How::Direct {
            body.ancestors = vec![process(gateway)];
        }
        self.tell(body.into());
        let held = stdin == EndKind::Pipe && !closed;
        let user = if how == How::Copy { forker } else { gateway };
        let reads = output == EndKind::Pipe;
        let worker = Worker {
            gateway,
            session,
            launcher: (how == How::Launcher).then_some(forker),
            stdin,
            holders: held.then_some(user).into_iter().collect(),
            heirs: BTreeSet::new(),
            output,
            readers: reads.then_some(user).into_iter().collect(),
            listens: listens && self.asks(Channel::Socket),
            connected: 0,
            caller: held.then_some(user),
            awaited: closed && reads,
            busy_until: 0,
            syscr: 0,
            below: 0,
            cpu_ms: 50,
        };
        self.workers.insert(id, worker);
        if inherits {
            for (other, worker) in &mut self.workers {
                if *other != id && worker.gateway == gateway && !worker.holders.is_empty() {
                    worker.heirs.insert(id);
                }
            }
        }
        self.look(id);
        if how == How::Passing {
            self.now += S / 10;
            self.die(forker, Role::Gateway, Some(0));
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..64_usize;
    let how = prop_oneof![
        4 => Just(How::Direct),
        2 => Just(How::Launcher),
        1 => Just(How::Passing),
        1 => Just(How::Gone),
        1 => Just(How::Copy),
    ];
    let end = || prop_oneof![4 => Just(EndKind::Pipe), 1 => Just(EndKind::Null), 1 => Just(EndKind::File)];
    let (stdin, output) = (end(), end());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        4 => (0..GATEWAYS, any::<u8>(), how, stdin, output, flags).prop_map(
            |(gateway, session, how, stdin, output, (closed, listens, inherits))| Step::Spawn {
                gateway,
                session,
                how,
                stdin,
                closed: closed && listens,
                output,
                listens,
                inherits,
            }
        ),
        4 => (n(), any::<bool>()).prop_map(|(n, below)| Step::Call(n, below)),
        2 => (n(), any::<bool>()).prop_map(|(n, waits)| Step::CloseStdin(n, waits)),
        1 => n().prop_map(Step::Forget),
        1 => (n(), 1_000..900_000_u64).prop_map(|(n, ms)| Step::Task(n, ms)),
        2 => n().prop_map(Step::Connect),
        1 => n().prop_map(Step::Disconnect),
        1 => (n(), any::<bool>()).prop_map(|(n, moves)| Step::Race(n, moves)),
        1 => (0..GATEWAYS).prop_map(Step::Kill),
        1 => n().prop_map(Step::EndLauncher),
        1 => n().prop_map(Step::Exit),
        1 => n().prop_map(Step::Blind),
        4 => prop_oneof![1..3_000_u64, 5_000..60_000_u64, 300_000..4_000_000_u64]
            .prop_map(Step::Wait),
    ]
}

fn channel() -> impl Strategy<Value = Option<Channel>> {
    prop_oneof![
        Just(None),
        Just(Some(Channel::Stdin)),
        Just(Some(Channel::Socket)),
        Just(Some(Channel::Task)),
    ]
}

/// How many histories; all of a million were run by hand.
fn cases() -> u32 {
    std::env::var("SLASHTRACE_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn nobody_in_use_is_called_unused_whatever_the_shape(
        channel in channel(),
        steps in vec(step(), 0..60),
    ) {
        let mut world = World::new(channel);
        for step in &steps {
            world.step(step);
        }
        world.pass(world.now + 7_200 * S);
    }
}
