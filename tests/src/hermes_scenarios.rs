//! Scenarios of `fixtures/hermes/driver.py`, what is true of each, and the check of what was found.

use std::{collections::BTreeSet, ops::RangeInclusive, process::Command};

use slashtrace::model::{Body, Finding, FindingState, Kind, Record};

use crate::{
    Recorded, Setup,
    fixtures::{Did, play},
    hermes, host,
    recorded::{finding, pids},
};

/// From the second spawn to the finding, ns: the overlap grace and a round of samples included.
const NAMED_WITHIN_NS: u64 = 10_000_000_000;
/// The overlap grace of the built-in profile: a pair that lives side by side for as long is named as
/// duplicates.
const OVERLAP_NS: u64 = 5_000_000_000;

/// Workers that a scenario spawns and leaves.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the driver calls it.
    pub name: &'static str,
    /// A range where hermes-agent itself races.
    pub spawned: RangeInclusive<usize>,
    /// Alive at the end.
    pub left: usize,
    /// Kinds of which one must name exactly the workers that are left; none for silence.
    pub named_by: &'static [Kind],
    /// Kinds that may be found beside.
    pub beside: &'static [Kind],
    /// Whether hermes-agent has to race for it, which it may not.
    pub races: bool,
}

/// One of which nothing is to be said.
pub const fn silent(name: &'static str, spawned: usize) -> Scenario {
    Scenario { name, spawned: spawned..=spawned, left: 0, named_by: &[], beside: &[], races: false }
}

/// The session is closed while two workers of it are seconds old, and one of them is left.
pub const fn lost_at_close(name: &'static str, spawned: usize) -> Scenario {
    Scenario {
        name,
        spawned: spawned..=spawned,
        left: 1,
        named_by: &[Kind::LostAtClose],
        // The killed worker of three-at-once is replaced.
        beside: &[Kind::RespawnChurn],
        races: true,
    }
}

/// The gateway is killed while its worker is busy, and that one outlives it.
pub const fn outlives_its_gateway(name: &'static str) -> Scenario {
    Scenario {
        name,
        spawned: 1..=1,
        left: 1,
        named_by: &[Kind::GatewayOrphan],
        beside: &[Kind::Unreachable],
        races: false,
    }
}

/// Plays scenarios in a venv with this version and checks them; nothing where there is no such version
/// to be had.
///
/// # Panics
/// If one does not come out as it should, or if it is not judged right.
pub fn play_and_check(version: &str, scenarios: &[Scenario]) {
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(folder) = hermes::venv(version) else { return };
    let recording = Setup::ebpf().profile("").start();
    let mut driver = Command::new(folder.join("bin/python"));
    let names: Vec<&str> = scenarios.iter().map(|scenario| scenario.name).collect();
    driver.arg(host::fixture("hermes/driver.py")).args(["--scenario", &names.join(",")]);
    let did = play(&mut driver);
    let recorded = recording.stop();
    for scenario in scenarios {
        check(&recorded, &did, scenario);
    }
}

/// How long the last two of these workers lived side by side, ns.
fn beside_ns(records: &[Record], workers: &BTreeSet<u32>) -> u64 {
    let mut born = Vec::new();
    let mut ended = Vec::new();
    for record in records {
        match &record.body {
            Body::Spawn(spawn) if workers.contains(&spawn.pid) => born.push(record.boottime_ns),
            Body::Exit(exit) if workers.contains(&exit.pid) => ended.push(record.boottime_ns),
            _ => {}
        }
    }
    let last = born.last().copied().unwrap_or(0);
    ended.into_iter().find(|&end| end > last).map_or(0, |end| end - last)
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
    if scenario.races && seen.len() < *scenario.spawned.start() && left.is_empty() {
        host::skip(&format!("{name}: hermes-agent did not race this time"));
        return;
    }
    let at_close = scenario.named_by.contains(&Kind::LostAtClose);
    if at_close && beside_ns(&recorded.records, &seen) >= OVERLAP_NS {
        host::skip(&format!("{name}: this machine is slow, the pair lived side by side too long"));
        return;
    }
    println!("{name}: spawned {}, left {}", seen.len(), left.len());
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
    // A call that falls into the start-up may be seen or not: then either of two may be in use. They
    // are duplicates for as long as both live, which in `race` is until the close.
    let lost = scenario.named_by.contains(&Kind::LostWorker);
    let were = || {
        let mut said = findings.iter().map(|(_, finding)| *finding);
        said.rfind(|it| it.kind == Kind::DuplicateWorker && it.state != FindingState::Closed)
    };
    let either = || {
        let either = standing(Kind::DuplicateWorker).or_else(|| were().filter(|_| lost));
        let either = either.filter(|_| scenario.races);
        either.filter(|finding| left.is_subset(&pids(finding).into_iter().collect()))
    };
    let exact = exact.or_else(either);
    let exact = exact.unwrap_or_else(|| panic!("{name}: left are {left:?}\n{recorded}"));
    println!("{name}: named by {} ({})", exact.kind, exact.confidence);

    // Both wait for the orphan grace.
    if matches!(exact.kind, Kind::GatewayOrphan | Kind::LostAtClose) {
        return;
    }
    let second = workers[1].identity();
    let spawned =
        recorded.record_of(|body| matches!(body, Body::Spawn(spawn) if spawn.identity() == second));
    let (first_said, _) = findings
        .iter()
        .find(|(_, finding)| pids(finding).iter().any(|pid| left.contains(pid)))
        .expect("there is one at least");
    let took = first_said.boottime_ns - spawned.boottime_ns;
    assert!(took <= NAMED_WITHIN_NS, "{name}: named {took} ns after the second spawn");
}
