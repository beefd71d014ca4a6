//! The real hermes-agent: the leaks that it has are named for the workers that really stay, and
//! what is no leak is met with silence.

use std::{collections::BTreeSet, ops::RangeInclusive, process::Command};

use slashtrace::model::{Finding, FindingState, Kind, Record};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play},
    hermes, host,
    recorded::{finding, pids},
};

/// From the second spawn to the finding, ns: the overlap grace and a round of samples included.
const NAMED_WITHIN_NS: u64 = 10_000_000_000;

/// Workers that a scenario spawns and leaves.
struct Scenario {
    name: &'static str,
    /// A range where hermes-agent itself races.
    spawned: RangeInclusive<usize>,
    left: usize,
    /// Kinds of which one must name exactly the workers that are left; none for silence.
    named_by: &'static [Kind],
    /// Kinds that may be found beside.
    beside: &'static [Kind],
    /// Whether hermes-agent has to race for it, which it may not.
    races: bool,
}

const fn silent(name: &'static str, spawned: usize) -> Scenario {
    Scenario { name, spawned: spawned..=spawned, left: 0, named_by: &[], beside: &[], races: false }
}

/// Runs the driver in a venv with this version; nothing where there is no such version to be had.
fn drive(version: &str) -> Option<(Recorded, Vec<Did>)> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    let folder = hermes::venv(version)?;
    let recording = Setup::ebpf().profile("").start();
    let mut driver = Command::new(folder.join("bin/python"));
    let did = play(driver.arg(host::fixture("hermes/driver.py")));
    Some((recording.stop(), did))
}

fn check(recorded: &Recorded, did: &[Did], scenario: &Scenario) {
    let name = scenario.name;
    let of_scenario: Vec<&Did> = did.iter().filter(|did| did.scenario == name).collect();
    let only = |what: &str| {
        let mut found = of_scenario.iter().filter(|did| did.did == what);
        *found.next().unwrap_or_else(|| panic!("{name}: no {what} in {of_scenario:?}"))
    };
    let gateway = only("begin").gateway.expect("the driver names its gateway");
    let left: BTreeSet<u32> = only("left").pids.iter().copied().collect();
    let left_at = only("left").boottime_ns;

    // Other hermes-agents may run on this machine: only the driver's gateway counts.
    let workers: Vec<_> = recorded
        .workers()
        .into_iter()
        .filter(|w| w.parent.as_ref().is_some_and(|parent| parent.process.pid == gateway))
        .collect();
    let driven: BTreeSet<u32> =
        of_scenario.iter().filter(|did| did.did == "spawn").filter_map(|did| did.pid).collect();
    let seen: BTreeSet<u32> = workers.iter().map(|worker| worker.pid).collect();
    assert_eq!(seen, driven, "{name}: workers\n{recorded}");
    if scenario.races && seen.len() == 1 && left.is_empty() {
        host::skip(&format!("{name}: hermes-agent did not race this time"));
        return;
    }
    assert!(scenario.spawned.contains(&seen.len()), "{name}: spawned {seen:?}");
    assert_eq!(left.len(), scenario.left, "{name}: left {left:?}");

    let findings: Vec<(&Record, &Finding)> = recorded
        .records
        .iter()
        .filter_map(|record| Some((record, finding(record)?)))
        .filter(|(_, finding)| finding.gateway.as_ref().is_some_and(|found| found.pid == gateway))
        .collect();
    let kinds: BTreeSet<Kind> = findings.iter().map(|(_, finding)| finding.kind).collect();
    for kind in &kinds {
        let expected = scenario.named_by.contains(kind) || scenario.beside.contains(kind);
        assert!(expected, "{name}: {kind}\n{recorded}");
    }
    if scenario.named_by.is_empty() {
        return;
    }
    // As it stood when the scenario was over, before the driver ended what was left.
    let standing = |kind: Kind| {
        let mut said = findings.iter().filter(|(record, _)| record.boottime_ns <= left_at);
        let (_, last) = said.rfind(|(_, finding)| finding.kind == kind)?;
        (last.state != FindingState::Closed).then_some(*last)
    };
    let exact = scenario.named_by.iter().find_map(|&kind| {
        standing(kind).filter(|finding| pids(finding).into_iter().collect::<BTreeSet<_>>() == left)
    });
    // A call that falls into the start-up may be seen or not: then either of two may be in use.
    let either = || {
        let either = standing(Kind::DuplicateWorker).filter(|_| scenario.races);
        either.filter(|finding| left.is_subset(&pids(finding).into_iter().collect()))
    };
    let exact = exact.or_else(either);
    let exact = exact.unwrap_or_else(|| panic!("{name}: left are {left:?}\n{recorded}"));

    if exact.kind == Kind::GatewayOrphan {
        return;
    }
    let second = workers[1].identity();
    let spawned = recorded.record_of(
        |body| matches!(body, slashtrace::model::Body::Spawn(spawn) if spawn.identity() == second),
    );
    let (first_said, _) = findings
        .iter()
        .find(|(_, finding)| pids(finding).iter().any(|pid| left.contains(pid)))
        .expect("there is one at least");
    let took = first_said.boottime_ns - spawned.boottime_ns;
    assert!(took <= NAMED_WITHIN_NS, "{name}: named {took} ns after the second spawn");
}

#[test]
fn hermes_agent_0_13_0() {
    let Some((recorded, did)) = drive("0.13.0") else { return };
    for scenario in [
        silent("healthy", 1),
        Scenario {
            name: "resume3",
            spawned: 3..=3,
            left: 3,
            named_by: &[Kind::DuplicateWorker],
            beside: &[Kind::LostWorker, Kind::Accumulation],
            races: false,
        },
        silent("race", 1),
        silent("model-switch", 4),
        silent("kill-idle", 1),
        Scenario {
            name: "kill-busy",
            spawned: 1..=1,
            left: 1,
            named_by: &[Kind::GatewayOrphan],
            beside: &[Kind::Unreachable],
            races: false,
        },
    ] {
        check(&recorded, &did, &scenario);
    }
}

#[test]
fn hermes_agent_0_19_0() {
    let Some((recorded, did)) = drive("0.19.0") else { return };
    for scenario in [
        silent("healthy", 1),
        // Where the first resume's command overtakes the worker that the resume spawns, that one
        // comes later and the other resumes find the live session; else a third one is spawned
        // and ended again. Two are left either way.
        Scenario {
            name: "resume3",
            spawned: 2..=3,
            left: 2,
            named_by: &[Kind::DuplicateWorker],
            beside: &[Kind::LostWorker, Kind::Accumulation],
            races: true,
        },
        Scenario {
            name: "race",
            spawned: 2..=2,
            left: 1,
            named_by: &[Kind::LostWorker],
            beside: &[Kind::DuplicateWorker],
            races: true,
        },
        silent("model-switch", 4),
        silent("kill-idle", 1),
        silent("kill-busy", 1),
    ] {
        check(&recorded, &did, &scenario);
    }
}
