//! The bundled gateway under the real tracer: each way to leak is named, for the very processes
//! that leak, and what does not leak is not accused.

use std::{fs, time::Duration};

use slashtrace::model::Kind;
use slashtrace_tests::{
    Done, LeakyGateway, Recorder, Recording, TestProfile, root_and_bpf, skip, wait_until,
};

fn kind_named(name: &str) -> Kind {
    *Kind::ALL.iter().find(|kind| kind.name() == name).expect("the fixture names a kind")
}

/// What of an `expect` line does not hold in the recording.
fn unmet(recording: &Recording, expected: &Done) -> Option<String> {
    let session = expected.session();
    let Some(name) = expected.kind() else {
        let found = recording
            .findings()
            .find(|found| found.workers.iter().any(|worker| expected.pids().contains(&worker.pid)));
        return found.map(|found| format!("{}: {found:?}", expected.scenario()));
    };
    let kind = kind_named(name);
    let pids = expected.pids();
    let named = recording.findings().filter(|found| found.kind == kind).any(|found| {
        let mut seen: Vec<u32> = found.workers.iter().map(|worker| worker.pid).collect();
        if kind == Kind::LeftoverChildren {
            seen = found.processes.iter().map(|process| process.pid).collect();
        }
        let gateway = found.gateway.as_ref().map(|gateway| gateway.pid);
        // The surplus, of which accumulation speaks, is not every worker.
        let workers_agree = if kind == Kind::Accumulation {
            !seen.is_empty() && seen.iter().all(|pid| pids.contains(pid))
        } else {
            seen.len() == pids.len() && pids.iter().all(|pid| seen.contains(pid))
        };
        workers_agree && found.session.as_deref() == session && gateway == expected.gateway()
    });
    let seen: Vec<_> = recording
        .findings()
        .map(|found| {
            let pids: Vec<_> = found.workers.iter().map(|worker| worker.pid).collect();
            format!("{} {:?} {pids:?} {:?}", found.kind, found.state, found.session)
        })
        .collect();
    (!named).then(|| format!("{name} for {pids:?}, {session:?}; found: {seen:#?}"))
}

#[test]
fn each_way_to_leak_is_named_and_a_healthy_session_is_not() {
    if let Err(why) = root_and_bpf() {
        skip!("{why}");
    }
    let profile = TestProfile::new();
    let path = profile.path();
    let recorder = Recorder::start(&[
        "--profile",
        path.to_str().expect("UTF-8"),
        "--sensor",
        "ebpf",
        "--count-calls",
        "--sample-interval",
        "1s",
    ]);
    let every = "healthy,spawn-per-call,duplicate,lost,churn,orphan,leftover,unreachable,zombie,accumulation";
    let done = LeakyGateway::start(&profile, every, 1.0).finish();
    let recording = recorder.stop();
    recording.assert_sound();

    // Every worker that was spawned, from the gateway that spawned it.
    for spawned in done.iter().filter(|line| line.did() == "spawn") {
        let pid = spawned.pid().expect("a spawn has a pid");
        let seen = recording
            .spawns()
            .find(|spawn| spawn.pid == pid)
            .unwrap_or_else(|| panic!("{spawned:?} was not seen"));
        assert_eq!(seen.session.as_deref(), spawned.session());
        let parent = seen.parent.as_ref().map(|parent| parent.process.pid);
        assert_eq!(parent, spawned.gateway(), "{seen:?}");
        assert!(seen.terminal.is_some(), "the gateway is below a PTY: {seen:?}");
    }
    let expected: Vec<_> = done.iter().filter(|line| line.did() == "expect").collect();
    assert_eq!(expected.len(), every.split(',').count());
    let problems: Vec<_> =
        expected.iter().filter_map(|expected| unmet(&recording, expected)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_fixture_ends_everything_that_it_started() {
    let profile = TestProfile::new();
    let gateway = LeakyGateway::start(&profile, "leftover,zombie", 10.0);
    let child = wait_until("a detached child", Duration::from_secs(20), || {
        let done = gateway.done();
        done.iter().find(|line| line.did() == "spawn-child").and_then(Done::pid)
    });
    let worker = gateway.done().iter().find(|line| line.did() == "spawn").and_then(Done::pid);
    gateway.end();
    for pid in [child, worker.expect("the child has a worker")] {
        wait_until("the end of what the fixture started", Duration::from_secs(10), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))
        });
    }
}
