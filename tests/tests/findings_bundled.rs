//! The bundled leaky gateway: each way to leak is named for the pids that leak, and the healthy
//! sessions are not.

use std::{collections::BTreeSet, fs, process::Command};

use slashtrace::model::{Confidence, Finding, Kind};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play},
    host, recorded,
};

/// What a scenario must and may lead to: a leak often shows in more ways than one.
fn may_also_be(scenario: &str) -> &'static [Kind] {
    match scenario {
        "spawn-per-call" | "lost" | "accumulation" => &[Kind::DuplicateWorker],
        // Its gateway was the only one to hold its stdin.
        "orphan" => &[Kind::Unreachable],
        _ => &[],
    }
}

/// As sure as it can be: with counted calls, and with states that are only sampled.
fn confidence(kind: Kind) -> Confidence {
    match kind {
        Kind::Unreachable | Kind::Zombie => Confidence::Strong,
        _ => Confidence::Proven,
    }
}

#[test]
fn each_leak_is_named_and_the_healthy_session_is_not() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = Setup::ebpf().flag("--count-calls").flag("--sample-interval=500ms");
    let token = setup.token().to_owned();
    let demo = fs::read_to_string(host::fixture("demo.toml")).expect("the demo's profile");
    let profile = demo.replace("tui_gateway.slash_worker\"]", &format!("{token}\"]"));
    assert!(profile.contains(&token), "the demo's profile has changed");
    let recording = setup.profile(profile).start();
    let mut gateway = Command::new("python3");
    gateway.arg(host::fixture("leaky_gateway/gateway.py"));
    gateway.args(["--module", &token, "--tag", "bundled"]);
    let did = play(&mut gateway);
    let recorded = recording.stop();

    let expected: Vec<&Did> = did.iter().filter(|did| did.did == "expect").collect();
    let scenarios: BTreeSet<&str> =
        expected.iter().map(|expect| expect.scenario.as_str()).collect();
    let begun = did.iter().filter(|did| did.did == "begin").count();
    assert_eq!((scenarios.len(), begun), (expected.len(), expected.len()));
    assert_eq!(begun, 12, "{scenarios:?}");
    for expect in expected {
        check(&recorded, expect);
    }
    // Each worker that the gateway spawned was seen, with the gateway that it says it had.
    for spawn in did.iter().filter(|did| did.did == "spawn") {
        let pid = spawn.pid.expect("a spawn has a pid");
        let of_session = recorded.workers_of(spawn.session.as_deref().expect("and a session"));
        let worker = of_session.iter().find(|worker| worker.pid == pid);
        let worker = worker.unwrap_or_else(|| panic!("worker {pid} was not seen\n{recorded}"));
        let parent = worker.parent.as_ref().expect("the forker is known");
        assert_eq!(Some(parent.process.pid), spawn.gateway);
    }
}

fn check(recorded: &Recorded, expect: &Did) {
    let prefix = format!("bundled_{}_", expect.scenario.replace('-', "_"));
    let of_scenario = |finding: &&Finding| match (&finding.session, &expect.session) {
        (Some(session), _) => session.starts_with(&prefix),
        // Not about one session: then about these workers.
        (None, _) => recorded::pids(finding).iter().any(|pid| expect.pids.contains(pid)),
    };
    let findings: Vec<&Finding> = recorded.findings().into_iter().filter(of_scenario).collect();
    let kinds: BTreeSet<&str> = findings.iter().map(|finding| finding.kind.name()).collect();

    let mut allowed: BTreeSet<&str> = expect.kind.as_deref().into_iter().collect();
    assert!(kinds.is_superset(&allowed), "{expect:?}: {kinds:?}\n{recorded}");
    allowed.extend(may_also_be(&expect.scenario).iter().map(|kind| kind.name()));
    // Surplus of earlier scenarios counts for the same gateway.
    allowed.insert(Kind::Accumulation.name());
    assert!(kinds.is_subset(&allowed), "{expect:?}: {kinds:?}\n{recorded}");

    let Some(kind) = &expect.kind else {
        assert!(findings.is_empty(), "{expect:?}: {findings:?}");
        return;
    };
    let mut pids = expect.pids.clone();
    pids.sort_unstable();
    let named = findings.iter().filter(|finding| finding.kind.name() == kind);
    let exact = named.clone().find(|finding| about(finding) == pids);
    let exact = exact.unwrap_or_else(|| {
        panic!("{expect:?}: named are {:?}", named.map(|f| about(f)).collect::<Vec<_>>())
    });
    assert_eq!(exact.confidence, confidence(exact.kind), "{exact:?}");
    assert_eq!(exact.session, expect.session);
    assert_eq!(exact.gateway.as_ref().map(|gateway| gateway.pid), expect.gateway);
    assert!(!exact.because.is_empty());
}

/// The processes that a finding accuses, ascending.
fn about(finding: &Finding) -> Vec<u32> {
    if finding.kind != Kind::LeftoverChildren {
        return recorded::pids(finding);
    }
    let mut pids: Vec<u32> = finding.processes.iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    pids
}
