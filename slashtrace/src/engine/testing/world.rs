//! Histories nobody thought of, for properties: steps that are played in a world in which only
//! what is possible happens, and records of which nothing is true.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::scenario::S;
use crate::model::{
    Body, Clients, Connection, Exec, Exit, Gap, GapReason, Identity, Memory, Parent, ParentSource,
    Role, Sample, Source, Spawn, StdinPeer, StdinState, TerminalEvent, TerminalState,
    testing::{self, process, spawn},
};

pub(in crate::engine) fn exit(id: Identity, role: Role) -> Body {
    Body::Exit(Exit { role, ..testing::exit(id) })
}

pub(in crate::engine) fn sample(id: Identity, change: impl FnOnce(&mut Sample)) -> Body {
    let mut sample = testing::sample(id);
    change(&mut sample);
    Body::Sample(sample)
}

pub(in crate::engine) fn clients(
    id: Identity,
    listening: u32,
    connected: u32,
    complete: bool,
) -> Body {
    Body::Clients(Clients { listening, connected, complete, ..testing::clients(id) })
}

/// One thing that happens in a made-up world.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Step {
    /// Time passes, ms.
    Wait(u64),
    Spawn {
        gateway: u32,
        session: usize,
    },
    /// The nth live worker launches another of its session.
    Launch(usize),
    Fork(usize),
    ChildExit(usize),
    Serve {
        worker: usize,
        calls: u64,
    },
    Read {
        worker: usize,
        syscr: u64,
    },
    Unheld(usize),
    Leave(usize),
    Exit(usize),
    GatewayExit(u32),
    /// A gateway opens a terminal, whose process may name a session; workers that it spawns from
    /// then on have it as controlling terminal, if `leads`.
    OpenTerminal {
        gateway: u32,
        session: Option<usize>,
        leads: bool,
    },
    /// The nth open terminal is closed.
    CloseTerminal(usize),
    /// A look at a gateway's sockets that only counts clients.
    Clients {
        gateway: u32,
        connected: u32,
    },
    /// A client connects to a gateway; the kernel may not tell when it is heard from.
    Connect {
        gateway: u32,
        told: bool,
    },
    /// The nth client of a gateway speaks.
    Speak {
        gateway: u32,
        client: usize,
    },
    Disconnect {
        gateway: u32,
        client: usize,
    },
    /// A look at each connection of a gateway.
    Look(u32),
}

pub(in crate::engine) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![0_u64..10, 100_u64..3_000, 4_990_u64..5_010, 5_000_u64..60_000]
            .prop_map(Step::Wait),
        4 => (100_u32..103, 0_usize..3)
            .prop_map(|(gateway, session)| Step::Spawn { gateway, session }),
        1 => any::<usize>().prop_map(Step::Launch),
        1 => any::<usize>().prop_map(Step::Fork),
        1 => any::<usize>().prop_map(Step::ChildExit),
        3 => (any::<usize>(), 0_u64..3)
            .prop_map(|(worker, calls)| Step::Serve { worker, calls }),
        2 => (any::<usize>(), 0_u64..20)
            .prop_map(|(worker, syscr)| Step::Read { worker, syscr }),
        1 => any::<usize>().prop_map(Step::Unheld),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => any::<usize>().prop_map(Step::Exit),
        1 => (100_u32..103).prop_map(Step::GatewayExit),
        1 => (100_u32..103, option::of(0_usize..3), any::<bool>())
            .prop_map(|(gateway, session, leads)| Step::OpenTerminal { gateway, session, leads }),
        1 => any::<usize>().prop_map(Step::CloseTerminal),
        1 => (100_u32..103, 0_u32..2)
            .prop_map(|(gateway, connected)| Step::Clients { gateway, connected }),
        2 => (100_u32..103, prop::bool::weighted(0.9))
            .prop_map(|(gateway, told)| Step::Connect { gateway, told }),
        2 => (100_u32..103, any::<usize>())
            .prop_map(|(gateway, client)| Step::Speak { gateway, client }),
        2 => (100_u32..103, any::<usize>())
            .prop_map(|(gateway, client)| Step::Disconnect { gateway, client }),
        4 => (100_u32..103).prop_map(Step::Look),
    ]
}

/// What happened, when, and to which process: in the order in which it happened.
pub(in crate::engine) type Happened = (u64, Identity, Body);

/// Plays steps in a world in which only what is possible happens: nobody dead acts.
#[derive(Debug, Default)]
pub(in crate::engine) struct World {
    now: u64,
    next_pid: u32,
    /// Live workers: gateway, session, calls, reads.
    workers: Vec<(Identity, u32, String, u64, u64)>,
    children: Vec<(Identity, Identity)>,
    generation: BTreeMap<u32, u64>,
    happened: Vec<Happened>,
    next_index: u32,
    /// Open terminals, and of which gateway's workers each is the controlling one.
    terminals: Vec<(TerminalEvent, Option<u32>)>,
    /// Clients of each gateway.
    clients: BTreeMap<u32, Vec<Connection>>,
}

impl World {
    pub(in crate::engine) fn play(steps: &[Step], one_a_group: bool) -> Vec<Happened> {
        let mut world = Self { now: 10 * S, next_pid: 1_000, ..Self::default() };
        for step in steps {
            world.step(step, one_a_group);
        }
        world.happened
    }

    /// The sensor tells of a terminal before the worker that was born on it.
    fn tell_of(&mut self, event: &TerminalEvent) {
        let about = Identity { pid: u32::MAX, start_ns: 0 };
        self.now += 20_000_000;
        self.tell(about, Body::Terminal(Box::new(event.clone())));
        self.now += 20_000_000;
    }

    /// Every event has a moment of its own.
    fn tell(&mut self, about: Identity, body: Body) {
        self.now += 1_000;
        self.happened.push((self.now, about, body));
    }

    fn fresh(&mut self) -> Identity {
        self.next_pid += 1;
        Identity { pid: self.next_pid, start_ns: self.now }
    }

    fn gateway(&self, pid: u32) -> Identity {
        let generation = self.generation.get(&pid).copied().unwrap_or_default();
        Identity { pid, start_ns: S + generation }
    }

    fn end(&mut self, at: usize) {
        let (id, ..) = self.workers.remove(at);
        self.tell(id, exit(id, Role::Worker));
    }

    fn step(&mut self, step: &Step, one_a_group: bool) {
        let nth = |n: usize, of: usize| (of > 0).then(|| n % of.max(1));
        match step {
            Step::Wait(ms) => self.now += ms * 1_000_000,
            Step::Spawn { gateway, session } => {
                let session = format!("key-{session}");
                let same =
                    |w: &(Identity, u32, String, u64, u64)| w.1 == *gateway && w.2 == session;
                while one_a_group && let Some(at) = self.workers.iter().position(same) {
                    self.end(at);
                }
                let id = self.fresh();
                let parent = self.gateway(*gateway);
                let mut body = spawn(id).forked_by(parent).session(&session);
                let mut own = self.terminals.iter().filter(|(_, of)| *of == Some(*gateway));
                body.terminal = own.next_back().map(|(terminal, _)| terminal.place());
                self.tell(id, body.into());
                self.workers.push((id, *gateway, session, 0, 0));
            }
            Step::Launch(n) => {
                let Some(at) = nth(*n, self.workers.len()) else { return };
                let (above, gateway, session, ..) = self.workers.remove(at);
                let id = self.fresh();
                self.tell(id, spawn(id).forked_by(above).session(&session).into());
                self.workers.push((id, gateway, session, 0, 0));
            }
            Step::Fork(n) => {
                let Some(at) = nth(*n, self.workers.len()) else { return };
                let worker = self.workers[at].0;
                let of_worker: Vec<Identity> =
                    self.children.iter().filter(|c| c.1 == worker).map(|c| c.0).collect();
                let parent = nth(*n, of_worker.len()).map_or(worker, |at| of_worker[at]);
                let id = self.fresh();
                self.tell(id, spawn(id).forked_by(parent).below(worker).into());
                self.children.push((id, worker));
            }
            Step::ChildExit(n) => {
                let Some(at) = nth(*n, self.children.len()) else { return };
                let (id, _) = self.children.remove(at);
                self.tell(id, exit(id, Role::Descendant));
            }
            Step::Serve { worker, calls } => {
                let Some(at) = nth(*worker, self.workers.len()) else { return };
                self.workers[at].3 += calls;
                let (id, .., reads, _) = self.workers[at];
                self.tell(id, sample(id, |sample| sample.reads = Some(reads)));
            }
            Step::Read { worker, syscr } => {
                let Some(at) = nth(*worker, self.workers.len()) else { return };
                self.workers[at].4 += syscr;
                let (id, .., total) = self.workers[at];
                self.tell(id, sample(id, |sample| sample.syscr = Some(total)));
            }
            Step::Unheld(n) => {
                let Some(at) = nth(*n, self.workers.len()) else { return };
                let id = self.workers[at].0;
                let stdin = Some(StdinPeer { kind: None, state: StdinState::Unheld, holder: None });
                self.tell(id, sample(id, |sample| sample.stdin = stdin));
            }
            Step::Leave(n) => {
                let Some(at) = nth(*n, self.workers.len()) else { return };
                let (id, ..) = self.workers.remove(at);
                let exec = Exec { is_worker: false, comm: "sh".to_owned(), ..testing::exec(id) };
                self.tell(id, Body::Exec(exec));
            }
            Step::Exit(n) => {
                let Some(at) = nth(*n, self.workers.len()) else { return };
                self.end(at);
            }
            Step::OpenTerminal { gateway, session, leads } => {
                let id = self.gateway(*gateway);
                self.next_index = (self.next_index + 1) % 4;
                let index = self.next_index;
                if self.terminals.iter().any(|(terminal, _)| terminal.index == index) {
                    return;
                }
                let event = TerminalEvent {
                    master: Some(process(id)),
                    session: session.map(|session| format!("key-{session}")),
                    ..testing::terminal(index, self.now)
                };
                self.tell_of(&event);
                self.terminals.push((event, leads.then_some(*gateway)));
            }
            Step::CloseTerminal(n) => {
                let Some(at) = nth(*n, self.terminals.len()) else { return };
                let (mut event, _) = self.terminals.remove(at);
                event.state = TerminalState::Closed;
                self.tell_of(&event);
            }
            Step::GatewayExit(pid) => {
                let id = self.gateway(*pid);
                *self.generation.entry(*pid).or_default() += 1;
                self.clients.remove(pid);
                self.tell(id, exit(id, Role::Gateway));
            }
            Step::Clients { gateway, connected } => {
                let id = self.gateway(*gateway);
                self.tell(id, clients(id, 1, *connected, true));
            }
            Step::Connect { gateway, told } => {
                let id = u64::from(self.fresh().pid);
                let heard_ns = told.then_some(self.now);
                let since_ns = Some(self.now);
                let client = Connection { id, since_ns, heard_ns, port: None };
                self.clients.entry(*gateway).or_default().push(client);
            }
            Step::Speak { gateway, client } => {
                let all = self.clients.entry(*gateway).or_default();
                let Some(at) = nth(*client, all.len()) else { return };
                all[at].heard_ns = all[at].heard_ns.map(|_| self.now);
            }
            Step::Disconnect { gateway, client } => {
                let all = self.clients.entry(*gateway).or_default();
                let Some(at) = nth(*client, all.len()) else { return };
                all.remove(at);
            }
            Step::Look(gateway) => {
                let id = self.gateway(*gateway);
                let all = self.clients.get(gateway).cloned().unwrap_or_default();
                let mut body = clients(id, 1, all.len() as u32, true);
                if let Body::Clients(look) = &mut body {
                    look.connections = all;
                }
                // The sensor looks behind the spawns that it told of.
                self.now += 20_000_000;
                self.tell(id, body);
                self.now += 20_000_000;
            }
        }
    }
}

fn identity() -> impl Strategy<Value = Identity> {
    let number = prop_oneof![0_u64..4, any::<u64>(), Just(u64::MAX)];
    (0_u32..6, number).prop_map(|(pid, start_ns)| Identity { pid, start_ns })
}

fn source() -> impl Strategy<Value = Source> {
    select(vec![Source::Kernel, Source::Proc, Source::Poll])
}

fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Worker, Role::Worker, Role::Descendant, Role::Gateway, Role::Ancestor])
}

fn number() -> impl Strategy<Value = Option<u64>> {
    option::of(prop_oneof![0_u64..5, any::<u64>(), Just(u64::MAX)])
}

fn any_spawn() -> impl Strategy<Value = Body> {
    let how = select(vec![ParentSource::Fork, ParentSource::Exec, ParentSource::Proc]);
    let parent = option::of((identity(), how, any::<bool>(), any::<bool>()));
    let session = option::of(select(vec!["", "K", "L\u{1b}[0m"]));
    (identity(), role(), source(), any::<bool>(), parent, session, option::of(identity())).prop_map(
        |(id, role, source, inherited, parent, session, worker)| {
            let parent = parent.map(|(id, how, gone, reaper)| Parent {
                gone,
                reaper,
                ..testing::parent(id, how)
            });
            let session = session.map(str::to_owned);
            Spawn { role, source, inherited, parent, worker, session, ..spawn(id) }.into()
        },
    )
}

pub(in crate::engine) fn any_body() -> impl Strategy<Value = Body> {
    let state = select(vec!['S', 'Z', 'X', 'R', '\u{0}']);
    let stdin = option::of(select(vec![StdinState::Held, StdinState::Unheld, StdinState::Unknown]));
    let any_sample = (identity(), state, number(), number(), number(), stdin).prop_map(
        |(id, state, rss, syscr, reads, stdin)| {
            sample(id, |sample| {
                sample.state = state;
                sample.rss_kib = rss;
                sample.syscr = syscr;
                sample.reads = reads;
                sample.stdin = stdin.map(|state| StdinPeer { kind: None, state, holder: Some(id) });
            })
        },
    );
    let any_exit =
        (identity(), role(), source(), number()).prop_map(|(id, role, source, reads)| {
            let how = testing::exit(id);
            Body::Exit(Exit { role, code: None, signal: Some(9), reads, source, ..how })
        });
    let any_exec = (identity(), role(), source(), any::<bool>(), any::<bool>()).prop_map(
        |(id, role, source, is_worker, helper)| {
            let helper = helper.then(|| "mcp-watchdog".to_owned());
            let comm = String::new();
            Body::Exec(Exec { role, is_worker, comm, helper, source, ..testing::exec(id) })
        },
    );
    let any_tick = number().prop_map(|kib| {
        testing::tick(kib.map(|kib| Memory { swap_free_kib: kib, ..testing::memory(kib, kib) }))
    });
    let any_connection = (0_u64..3, number(), number())
        .prop_map(|(id, since_ns, heard_ns)| Connection { id, since_ns, heard_ns, port: None });
    let any_connections = vec(any_connection, 0..3);
    let any_clients = (identity(), 0_u32..2, 0_u32..3, any::<bool>(), any_connections).prop_map(
        |(id, listening, connected, complete, connections)| {
            let mut body = clients(id, listening, connected, complete);
            if let Body::Clients(look) = &mut body {
                look.connections = connections;
            }
            body
        },
    );
    let gap = Just(Body::Gap(Gap {
        reason: GapReason::RingFull,
        lost: u64::MAX,
        resynced: true,
        uid: None,
    }));
    prop_oneof![4 => any_spawn(), 3 => any_sample, 3 => any_exit, 1 => any_exec, 2 => any_tick,
        1 => any_clients, 1 => gap]
}
