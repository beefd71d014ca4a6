//! Who forked whom, who executed what, how it ended: judged from what the kernel saw, in the cases
//! in which /proc would tell another story.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{
    process::{self, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use slashtrace::model::{Body, Confidence, Kind, ParentSource, Record, Role, Source, Spawn};
use slashtrace_tests::{
    Program, Recorded, Recording, Setup, Step, Subject, host,
    recorded::{has_exited, opened, pids, workers},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn gateway(steps: Vec<Step>) -> Subject {
    Program::new("gateway", steps).start()
}

fn wait_for_worker(recording: &Recording, session: &str) -> Spawn {
    let of_session = |records: &[Record]| {
        let mut found = workers(records).into_iter();
        found.find(|worker| worker.session.as_deref() == Some(session)).cloned()
    };
    recording.wait_for(session, PATIENCE, |records| of_session(records).is_some());
    of_session(&recording.so_far()).expect("it was there")
}

/// The gateway orphan that names the worker of this session, proven.
fn assert_orphan_is_proven(recorded: &Recorded, session: &str, gateway: u32) {
    let worker = recorded.worker(session);
    let findings = recorded.opened(Kind::GatewayOrphan);
    let [finding] = findings.as_slice() else { panic!("{} orphans\n{recorded}", findings.len()) };
    assert_eq!(finding.confidence, Confidence::Proven, "{finding:?}");
    assert_eq!(pids(finding), [worker.pid]);
    assert_eq!(finding.session.as_deref(), Some(session));
    let named = finding.gateway.as_ref().expect("the gateway is known");
    assert_eq!((named.pid, named.how), (gateway, ParentSource::Fork));
}

/// A double fork: who forked the worker's forker is its gateway.
#[test]
fn one_that_is_gone_before_its_child_executes_only_passed_through() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = recording.worker("early", vec![Step::Sleep(20_000)]);
    let mut forker =
        gateway(vec![Step::Fork(vec![Step::Sleep(1_000), Step::Exec(worker)]), Step::Exit(0)]);
    assert!(forker.wait().success());
    wait_for_worker(&recording, "early");
    let recorded = recording.stop();

    let worker = recorded.worker("early");
    let parent = worker.parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.how), (forker.pid(), ParentSource::Fork));
    assert!(parent.gone, "{parent:?}");
    assert_eq!(parent.forker.as_ref().map(|above| above.pid), Some(process::id()), "{parent:?}");
    assert!(!worker.inherited);
    assert!(opened(&recorded.records, Kind::GatewayOrphan).is_empty(), "{recorded}");
}

#[test]
fn a_gateway_that_dies_a_millisecond_after_the_spawn_is_seen_to_exit() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = recording.worker("late", vec![Step::Sleep(20_000)]);
    // A vfork's parent goes on a moment before the exec is told of; under emulation a long moment.
    let moment_ms = if host::is_guest() { 100 } else { 1 };
    let mut gateway = gateway(vec![Step::Spawn(worker), Step::Sleep(moment_ms), Step::Exit(5)]);
    assert_eq!(gateway.wait().code(), Some(5));
    recording.wait_for("gateway-orphan", PATIENCE, |records| {
        !opened(records, Kind::GatewayOrphan).is_empty()
    });
    let recorded = recording.stop();

    let parent = recorded.worker("late").parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.how), (gateway.pid(), ParentSource::Fork));
    let exit = recorded.exit_of(parent.process.identity());
    assert_eq!((exit.role, exit.code, exit.source), (Role::Gateway, Some(5), Source::Kernel));
    assert_orphan_is_proven(&recorded, "late", gateway.pid());
}

#[test]
fn a_worker_that_ends_in_time_is_no_orphan() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // The orphan grace is 2 s.
    let worker = recording.worker("in_time", vec![Step::Sleep(700)]);
    gateway(vec![Step::Spawn(worker), Step::Exit(0)]).wait();
    let worker = wait_for_worker(&recording, "in_time");
    recording.wait_for("exit", PATIENCE, |records| has_exited(records, worker.pid));
    std::thread::sleep(Duration::from_secs(3));
    let recorded = recording.stop();
    assert!(recorded.findings().is_empty(), "{recorded}");
}

#[test]
fn a_thread_that_spawns_is_its_process() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = recording.worker("of_a_thread", vec![Step::Threads(5), Step::Sleep(300)]);
    let steps = vec![Step::SpawnFromThread(worker), Step::Threads(3), Step::Reap];
    let mut gateway = gateway(steps);
    assert!(gateway.wait().success());
    let recorded = recording.stop();

    let worker = recorded.worker("of_a_thread");
    let parent = worker.parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.how), (gateway.pid(), ParentSource::Fork));
    assert_eq!(parent.process.comm, "subject");
    assert_eq!(recorded.exit_of(worker.identity()).code, Some(0));
    assert_eq!(recorded.exit_of(parent.process.identity()).role, Role::Gateway);
    // Nine threads have ended meanwhile, and none of them was a process.
    assert_eq!(recorded.exits().len(), 2, "{recorded}");
    assert!(recorded.descendants_of(worker.identity()).is_empty());
}

#[test]
fn a_leader_that_ends_before_its_threads_is_neither_gone_nor_a_zombie() {
    if !host::may_load_kernel_programs() {
        return;
    }
    // Twice the zombie grace.
    const LIVES_ON_MS: u64 = 4_000;
    let recording = Setup::ebpf().flag("--sample-interval=200ms").start();
    let mut worker = recording.worker("leader", vec![Step::LeaderEnds(LIVES_ON_MS, 4)]).start();
    assert_eq!(worker.wait().code(), Some(4));
    let recorded = recording.stop();

    let spawn = recorded.worker("leader");
    let exit = recorded.exit_of(spawn.identity());
    assert_eq!(exit.code, Some(4));
    let at = |is: &dyn Fn(&Body) -> bool| recorded.record_of(is).boottime_ns;
    let spawned = at(&|body| matches!(body, Body::Spawn(s) if s.identity() == spawn.identity()));
    let exited = at(&|body| matches!(body, Body::Exit(e) if e.identity() == spawn.identity()));
    assert!(exited - spawned >= LIVES_ON_MS * 1_000_000, "{exited} - {spawned}");
    assert!(recorded.findings().is_empty(), "{recorded}");
}

#[test]
fn an_exec_of_an_exec_is_the_same_worker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let again = |then| recording.worker("again", vec![then]);
    let third = again(Step::Exit(3));
    let second = again(Step::ExecFromThread(third));
    let mut worker = again(Step::Exec(second)).start();
    assert_eq!(worker.wait().code(), Some(3));
    let recorded = recording.stop();

    let spawn = recorded.worker("again");
    assert_eq!(spawn.pid, worker.pid());
    let execs = recorded.execs_of(spawn.identity());
    assert_eq!(execs.len(), 2, "{recorded}");
    assert!(execs.iter().all(|exec| exec.is_worker && exec.role == Role::Worker), "{execs:?}");
    assert_eq!(recorded.exit_of(spawn.identity()).code, Some(3));
    assert_eq!(recorded.exits().len(), 1, "{recorded}");
}

#[test]
fn a_worker_that_executes_something_else_is_followed_and_no_worker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let other = Program::new("/opt/other", vec![Step::Exit(0)]).arg("-m").arg("other");
    let mut worker = recording.worker("turncoat", vec![Step::Exec(other)]).start();
    worker.wait();
    let recorded = recording.stop();

    let spawn = recorded.worker("turncoat");
    let execs = recorded.execs_of(spawn.identity());
    let [exec] = execs.as_slice() else { panic!("{} execs\n{recorded}", execs.len()) };
    assert!(!exec.is_worker);
    assert_eq!((exec.role, exec.argv0.as_deref()), (Role::Worker, Some("/opt/other")));
    recorded.exit_of(spawn.identity());
}

#[test]
fn what_stands_between_gateway_and_worker_is_named() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = recording.worker("nested", vec![Step::Sleep(2_000)]);
    let between = Program::new("between", vec![Step::Spawn(worker), Step::Reap]);
    let mut above = gateway(vec![Step::Spawn(between), Step::Reap]);
    assert!(above.wait().success());
    let recorded = recording.stop();

    let worker = recorded.worker("nested");
    let parent = worker.parent.as_ref().expect("the forker is known");
    assert_eq!(parent.process.argv0.as_deref(), Some("between"));
    assert_ne!(parent.process.pid, above.pid());
    assert_eq!(worker.ancestors.first().map(|process| process.pid), Some(above.pid()));
    let exit = recorded.exit_of(worker.ancestors[0].identity());
    assert_eq!((exit.role, exit.code), (Role::Ancestor, Some(0)));
}

#[test]
fn a_subshell_that_puts_a_worker_in_the_background_passed_through() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // The subshell forks the worker and is gone; the shell itself goes on.
    let mut shell = Command::new("sh")
        .args(["-c", r#"("$BINARY" -m "$TOKEN" --session-key detached &); sleep 4"#])
        .env("BINARY", host::subject())
        .env("TOKEN", recording.token())
        .env(slashtrace_tests::program::ORDERS, r#"[{"Sleep":20000}]"#)
        .stdin(Stdio::null())
        .spawn()
        .expect("there is a shell");
    wait_for_worker(&recording, "detached");
    shell.wait().expect("a child can be waited for");
    let recorded = recording.stop();

    let parent = recorded.worker("detached").parent.as_ref().expect("the forker is known");
    assert_eq!(parent.how, ParentSource::Fork);
    assert_ne!(parent.process.pid, shell.id(), "the subshell forked it");
    assert_ne!(parent.process.pid, 1);
    assert!(opened(&recorded.records, Kind::GatewayOrphan).is_empty(), "{recorded}");
}

#[test]
fn who_killed_a_worker_is_recorded() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    for (session, signal) in [("killed", Signal::KILL), ("terminated", Signal::TERM)] {
        let mut worker = recording.worker(session, vec![Step::Sleep(20_000)]).start();
        wait_for_worker(&recording, session);
        worker.signal(signal);
        worker.wait();
    }
    let mut worker = recording.worker("failed", vec![Step::Exit(3)]).start();
    worker.wait();
    let recorded = recording.stop();

    for (session, number, name) in [("killed", 9, "SIGKILL"), ("terminated", 15, "SIGTERM")] {
        let worker = recorded.worker(session);
        let exit = recorded.exit_of(worker.identity());
        assert_eq!((exit.code, exit.signal), (None, Some(number)), "{exit:?}");
        let signals = recorded.signals_of(worker.identity());
        let [signal] = signals.as_slice() else { panic!("{} signals\n{recorded}", signals.len()) };
        assert_eq!((signal.signal, signal.name.as_str(), signal.si_code), (number, name, 0));
        assert!(signal.delivered);
        let sender = signal.sender.as_ref().expect("a process sent it");
        assert_eq!((sender.pid, sender.uid), (process::id(), 0));
    }
    let failed = recorded.worker("failed");
    let exit = recorded.exit_of(failed.identity());
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert!(recorded.signals_of(failed.identity()).is_empty());
}

#[test]
fn a_fork_of_a_worker_is_a_descendant_and_may_be_left_over() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // One child keeps the worker's argv, the other executes: neither is a worker.
    let server = Program::new("mcp-server", vec![Step::Sleep(20_000)]);
    let steps = vec![
        Step::Fork(vec![Step::Sleep(20_000)]),
        Step::Fork(vec![Step::Exec(server)]),
        Step::Fork(vec![Step::Exit(0)]),
        Step::Sleep(300),
        Step::Exit(0),
    ];
    let mut worker = recording.worker("parent", steps).start();
    worker.wait();
    recording.wait_for("leftover-children", PATIENCE, |records| {
        !opened(records, Kind::LeftoverChildren).is_empty()
    });
    let recorded = recording.stop();

    let worker = recorded.worker("parent");
    let below = recorded.descendants_of(worker.identity());
    assert_eq!(below.len(), 3, "{recorded}");
    for descendant in &below {
        assert_eq!(descendant.role, Role::Descendant);
        let parent = descendant.parent.as_ref().expect("the forker is known");
        assert_eq!(parent.process.identity(), worker.identity());
    }
    let executed: Vec<_> =
        below.iter().flat_map(|spawn| recorded.execs_of(spawn.identity())).collect();
    let [exec] = executed.as_slice() else { panic!("{} execs\n{recorded}", executed.len()) };
    assert_eq!((exec.role, exec.is_worker), (Role::Descendant, false));
    assert_eq!(exec.argv0.as_deref(), Some("mcp-server"));

    let findings = recorded.opened(Kind::LeftoverChildren);
    let [finding] = findings.as_slice() else { panic!("{} findings", findings.len()) };
    assert_eq!((finding.confidence, pids(finding)), (Confidence::Proven, vec![worker.pid]));
    let mut left: Vec<u32> = finding.processes.iter().map(|process| process.pid).collect();
    left.sort_unstable();
    let still_there = |spawn: &&&Spawn| recorded.exits_of(spawn.identity()).is_empty();
    let mut expected: Vec<u32> = below.iter().filter(still_there).map(|spawn| spawn.pid).collect();
    expected.sort_unstable();
    assert_eq!((left.len(), left), (2, expected));
}
