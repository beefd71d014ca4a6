//! One record of each type, for the tests of everything that reads or writes evidence.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::model::{
    Action, Body, Capability, Checkpoint, Clients, Confidence, Connection, Exec, Exit, Finding,
    FindingWorker, Forecast, ForkingThread, Gap, GapReason, GatewayRef, Host, Identity, Install,
    Kind, Limits, Memory, Mode, Outcome, Parent, ParentSource, Phase, Process, Program, Reaping,
    Record, Reply, ReplyEnd, Role, Sample, Sender, Sent, Signal, Source, Spawn, Start, StdinPeer,
    StdinState, Step, Stop, Terminal, TerminalEvent, TerminalState, ThreadClone, Tick, testing,
};

const GATEWAY: Identity = Identity { pid: 2800, start_ns: 50_000_000_000 };
const WORKER: Identity = Identity { pid: 2835, start_ns: 61_000_000_123 };
const CHILD: Identity = testing::id(2900, 62_000_000_000);
const SESSION: &str = "20261122_131836_536459";

/// The wall-clock time of a moment of the boot clock, as if the machine had booted at a fixed one.
pub(crate) fn time(boottime_ns: u64) -> Timestamp {
    testing::time_since("2026-11-22T13:17:35Z", boottime_ns)
}

/// A record with a place.
pub(crate) fn record(seq: u64, boottime_ns: u64, body: Body) -> Record {
    testing::record(seq, time(boottime_ns), boottime_ns, body)
}

fn process(identity: Identity, comm: &str, argv0: &str) -> Process {
    let (comm, argv0) = (comm.to_owned(), Some(argv0.to_owned()));
    Process { comm, argv0, ..testing::process(identity) }
}

/// The first record.
pub(crate) fn start() -> Start {
    let start = testing::start();
    Start {
        host: Host { distribution: Some("debian 12".to_owned()), memory: MEMORY, ..start.host },
        capabilities: vec![Capability {
            name: "sched_process_exec".to_owned(),
            ok: true,
            detail: "BTF tracepoint".to_owned(),
        }],
        limits: Limits { ring_bytes: 1 << 18, tracked_max: 16384, ..start.limits },
        reaping: Some(Reaping {
            mode: Mode::DryRun,
            triggers: vec!["gateway-orphan=strong".to_owned()],
            min_age_ms: 60_000,
            budget_per_minute: 10,
            term_grace_ms: 6_000,
        }),
        ..start
    }
}

const MEMORY: Memory = Memory {
    total_kib: 8_179_212,
    available_kib: 4_000_000,
    swap_total_kib: 2_097_148,
    swap_free_kib: 2_000_000,
};

/// A worker of the gateway with pid 2800.
pub(crate) fn spawn() -> Spawn {
    Spawn {
        parent: Some(Parent {
            process: process(GATEWAY, "python", "~/v/bin/python"),
            ..testing::parent(GATEWAY, ParentSource::Exec)
        }),
        ancestors: vec![process(testing::id(2788, 49_000_000_000), "node", "node")],
        opener: Some(process(testing::id(2779, 41_000_000_000), "hermes", "~/v/bin/python")),
        uid: 1000,
        sid: 2788,
        argv: ["~/v/bin/python", "-m", "tui_gateway.slash_worker", "--session-key", SESSION]
            .map(str::to_owned)
            .to_vec(),
        argv_bytes: 98,
        terminal: Some(Terminal { instance: None, index: 3 }),
        thread: Some(ForkingThread {
            tid: 2831,
            clones: vec![ThreadClone {
                by: 2830,
                at_ns: 60_000_000_000,
                replied_ns: Some(60_100_000_000),
            }],
        }),
        ..testing::spawn(WORKER).session(SESSION)
    }
}

/// A finding about that worker.
pub(crate) fn finding() -> Finding {
    Finding {
        id: "lost-worker:2835@61000000123".to_owned(),
        gateway: Some(GatewayRef {
            argv0: Some("~/v/bin/python".to_owned()),
            how: ParentSource::Exec,
            ..testing::gateway_ref(GATEWAY)
        }),
        session: Some(SESSION.to_owned()),
        workers: vec![FindingWorker {
            spawned_at: time(WORKER.start_ns),
            rss_kib: Some(96_000),
            reads: Some(0),
            unused: true,
            ..testing::finding_worker(WORKER)
        }],
        processes: vec![CHILD],
        processes_total: Some(300),
        forecast: Some(Forecast {
            workers_per_hour: 2,
            kib_per_hour: 190_000,
            exhausted_in_s: Some(75_789),
        }),
        because: vec![2, 6],
        text: "worker 2835 has read nothing while its sibling served".to_owned(),
        ..testing::finding(Kind::LostWorker, [])
    }
}

/// The terminal of the worker, closed.
fn terminal() -> TerminalEvent {
    TerminalEvent {
        instance: 23,
        index: 3,
        opened_ns: 49_000_000_000,
        state: TerminalState::Closed,
        source: Source::Inotify,
        uid: Some(1_000),
        master: Some(process(GATEWAY, "python", "~/v/bin/python")),
        leader: Some(process(Identity { pid: 2788, start_ns: 49_500_000_000 }, "node", "node")),
        processes: vec![Identity { pid: 2788, start_ns: 49_500_000_000 }, WORKER],
        session: Some(SESSION.to_owned()),
        session_ns: Some(50_000_000_000),
        resumes: Some(SESSION.to_owned()),
        ports: vec![45_678],
        closer: Some(process(GATEWAY, "python", "~/v/bin/python")),
    }
}

/// The worker is about to be sent SIGTERM.
pub(crate) fn action() -> Action {
    Action {
        uid: None,
        worker: Some(WORKER),
        step: Step::Terminate,
        phase: Phase::After,
        finding: Some(finding().id),
        kind: Some(Kind::LostWorker),
        confidence: Some(Confidence::Strong),
        because: vec![7],
        outcome: Some(Outcome::Sent),
        took_ms: Some(12),
        descendants: vec![CHILD],
        detail: "SIGTERM was sent to worker 2835".to_owned(),
    }
}

/// One record of each type, as a recording has them.
pub(crate) fn every_type() -> Vec<Record> {
    let all = all();
    let records = vec![all[1].clone()];
    let checkpoint = Body::Checkpoint(Box::new(Checkpoint { records, more: true }));
    [record(1, 60_000_000_000, checkpoint)].into_iter().chain(all).collect()
}

/// A recording with one of each type but `checkpoint`, which begins no recording of its own.
pub(crate) fn all() -> Vec<Record> {
    let bodies = [
        Body::Start(Box::new(start())),
        Body::Spawn(Box::new(spawn())),
        Body::Exec(Exec {
            role: Role::Descendant,
            is_worker: false,
            argv0: Some("~/v/bin/python".to_owned()),
            helper: Some("mcp-watchdog".to_owned()),
            ..testing::exec(CHILD)
        }),
        Body::Signal(Signal {
            pid: 2900,
            start_ns: 62_000_000_000,
            role: Role::Descendant,
            signal: 15,
            name: "SIGTERM".to_owned(),
            si_code: 0,
            parent_ended: false,
            count: Some(12),
            first_ns: Some(62_100_000_000),
            last_ns: Some(62_900_000_000),
            delivered: true,
            sender: Some(Sender {
                pid: WORKER.pid,
                start_ns: WORKER.start_ns,
                comm: "python".to_owned(),
                uid: 1000,
            }),
        }),
        Body::Exit(Exit {
            role: Role::Descendant,
            code: None,
            signal: Some(15),
            reads: Some(3),
            ..testing::exit(CHILD)
        }),
        Body::Sample(Sample {
            rss_kib: Some(96_000),
            launchers_rss_kib: Some(52_000),
            pss_kib: Some(60_123),
            threads: Some(4),
            syscr: Some(912),
            reads: Some(0),
            stdin: Some(StdinPeer { kind: None, state: StdinState::Held, holder: Some(GATEWAY) }),
            ..testing::sample(WORKER)
        }),
        Body::Finding(Box::new(finding())),
        Body::Terminal(Box::new(terminal())),
        Body::Program(Box::new(Program {
            pid: GATEWAY.pid,
            start_ns: GATEWAY.start_ns,
            package: Some("hermes-agent".to_owned()),
            version: Some("0.19.0".to_owned()),
            install: Some(Install::Package),
            installer: Some("pip".to_owned()),
            python: Some("3.11".to_owned()),
            container: Some("docker".to_owned()),
            unit: Some("hermes.service".to_owned()),
            environment: vec!["HERMES_HOME".to_owned()],
            source: Source::Proc,
        })),
        Body::Clients(Clients {
            connected: 1,
            connections: vec![Connection {
                id: 4711,
                since_ns: Some(60_000_000_000),
                heard_ns: Some(61_000_000_000),
                port: Some(45_678),
            }],
            ..testing::clients(GATEWAY)
        }),
        Body::Reply(Box::new(Reply {
            pid: GATEWAY.pid,
            start_ns: GATEWAY.start_ns,
            worker: WORKER,
            tid: 2831,
            from_ns: 61_000_000_500,
            until_ns: 61_150_000_500,
            ended: ReplyEnd::Time,
            sent: vec![Sent { port: 45_678, at_ns: 61_000_900_000 }],
            complete: true,
        })),
        Body::Action(Box::new(action())),
        Body::Tick(Tick { memory: Some(MEMORY) }),
        Body::Gap(Gap { reason: GapReason::RingFull, lost: 7, resynced: true, uid: None }),
        Body::Stop(Stop {
            reason: "interrupted".to_owned(),
            counters: BTreeMap::from([("seen".to_owned(), 4711), ("matched".to_owned(), 1)]),
            complete: false,
        }),
    ];
    (1..).zip(bodies).map(|(seq, body)| record(seq, 61_000_000_123 + seq * 1000, body)).collect()
}
