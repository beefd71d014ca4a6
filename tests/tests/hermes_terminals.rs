//! The real dashboards of hermes-agent with their terminal UI. 0.19.0: a tab that loses a worker is
//! closed, a second one goes on; where slashtrace may, it ends the lost worker and no other. 0.13.0:
//! the gateway of each tab lives below its terminal.
//!
//! Runs alone: it counts the terminals of every dashboard on the machine; where that is short of CPU a
//! tab loses its connection, and
//! hermes-agent ends its worker.

use std::{collections::BTreeSet, process::Command};

use slashtrace::model::{Body, Confidence, Finding, Kind, Outcome, TerminalEvent, TerminalState};
use slashtrace_tests::{
    Setup,
    fixtures::{Did, play, play_with},
    hermes, host,
    recorded::pids,
};

/// Longer than the terminal grace of the built-in profile.
const WAIT: &str = "40";

/// Workers of the two tabs, as the driver saw them.
struct Tabs {
    dashboard: u32,
    first: BTreeSet<u32>,
    second: BTreeSet<u32>,
    /// Alive at the end.
    left: BTreeSet<u32>,
    left_at: u64,
}

/// The driver's command; nothing, said aloud, where it cannot run.
fn driver_of(version: &str) -> Option<Command> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    if Command::new("node").arg("--version").output().is_err() {
        host::skip("no node: the terminal UI of hermes-agent cannot run");
        return None;
    }
    let mut driver = Command::new(hermes::venv(version)?.join("bin/python"));
    driver.arg(host::fixture("hermes/dashboard.py"));
    Some(driver)
}

fn driver() -> Option<Command> {
    let mut driver = driver_of("0.19.0")?;
    driver.args(["--scenario", "terminals", "--wait", WAIT, "--hold"]);
    Some(driver)
}

/// What the driver did; the second tab must have its worker, and answer, to the end.
fn tabs(did: &[Did]) -> Tabs {
    let only = |what: &str| -> &Did {
        did.iter().find(|did| did.did == what).unwrap_or_else(|| panic!("no {what}: {did:?}"))
    };
    let set = |pids: &[u32]| pids.iter().copied().collect::<BTreeSet<u32>>();
    let tabs = Tabs {
        dashboard: only("begin").gateway.expect("it names its pid"),
        first: set(&only("tabs").first),
        second: set(&only("tabs").second),
        left: set(&only("left").pids),
        left_at: only("left").boottime_ns,
    };
    assert!(!tabs.second.is_empty() && tabs.second.is_subset(&tabs.left), "{did:?}");
    let last_call = did.iter().rfind(|did| did.did == "call").expect("it calls");
    assert_eq!(last_call.answered, Some(true), "the second tab answers to the end");
    tabs
}

fn none_was_lost() {
    host::skip("hermes-agent lost no worker this time, whenever the command was typed");
}

#[test]
fn the_lost_worker_is_ended_and_no_other() {
    let Some(mut driver) = driver() else { return };
    let mut recording = None;
    let did = play_with(&mut driver, |begin| {
        // Nothing but the workers of this dashboard may be ended.
        let gateway = begin.gateway.expect("it names its pid");
        let setup = Setup::ebpf().profile("").flag("--count-calls").flag("--policy=enforce");
        // Which of the pair took the early command is a matter of the race: one that served it is
        // lost all the same, but only the end of its terminal shows that.
        let setup = setup.flag("--trigger=lost-worker").flag("--trigger=terminal-orphan=weak");
        let setup = setup.flag("--min-age=1ms");
        recording = Some(setup.flag(&format!("--gateway={gateway}")).start());
    });
    let recording = recording.expect("it began");
    let tracer = recording.pid();
    let recorded = recording.stop();
    let tabs = tabs(&did);
    if tabs.first.len() < 2 {
        none_was_lost();
        return;
    }
    let ended: BTreeSet<u32> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Action(action) if action.outcome == Some(Outcome::Sent) => action.worker,
            _ => None,
        })
        .map(|worker| worker.pid)
        .collect();
    assert_eq!(ended.len(), 1, "one of the pair: {ended:?}\n{recorded}");
    assert!(ended.is_subset(&tabs.first) && ended.is_disjoint(&tabs.left), "{ended:?}\n{recorded}");
    // Each signal that slashtrace sent is one that it told of.
    let signalled: BTreeSet<u32> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Signal(signal) => signal.sender.as_ref().map(|sender| (sender.pid, signal.pid)),
            _ => None,
        })
        .filter_map(|(sender, target)| (sender == tracer).then_some(target))
        .collect();
    assert_eq!(signalled, ended);
}

#[test]
fn a_lost_worker_outlives_its_tab_and_the_other_tab_is_let_alone() {
    let Some(mut driver) = driver() else { return };
    let recording = Setup::ebpf().profile("").start();
    let did = play(&mut driver);
    let recorded = recording.stop();
    let Tabs { dashboard, first, second, left, left_at } = tabs(&did);
    let lost: BTreeSet<u32> = first.intersection(&left).copied().collect();

    let terminals: Vec<&TerminalEvent> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Terminal(event) => Some(&**event),
            _ => None,
        })
        .filter(|event| event.master.as_ref().is_some_and(|master| master.pid == dashboard))
        .collect();
    let opened: BTreeSet<(u64, u32, u64)> =
        terminals.iter().map(|event| (event.instance, event.index, event.opened_ns)).collect();
    assert!(opened.len() >= 2, "a terminal for each tab: {terminals:?}");
    assert!(terminals.iter().any(|event| event.state == TerminalState::Closed), "{terminals:?}");

    let findings: Vec<&Finding> = recorded
        .records
        .iter()
        .filter(|record| record.boottime_ns <= left_at)
        .filter_map(slashtrace_tests::recorded::finding)
        .filter(|finding| finding.gateway.as_ref().is_some_and(|found| found.pid == dashboard))
        .collect();
    for finding in &findings {
        let unused = finding.workers.iter().filter(|worker| worker.unused);
        for worker in unused {
            assert!(!second.contains(&worker.pid), "the second tab is in use: {finding:?}");
        }
    }
    if lost.is_empty() {
        none_was_lost();
        return;
    }
    let orphans: Vec<&&Finding> =
        findings.iter().filter(|finding| finding.kind == Kind::TerminalOrphan).collect();
    let named: BTreeSet<u32> = orphans.iter().flat_map(|finding| pids(finding)).collect();
    assert!(lost.is_subset(&named), "left are {lost:?}, named {named:?}\n{recorded}");
    // The tree is flat and the session fresh: its file was written, and it was replied to.
    assert!(orphans.iter().all(|finding| finding.confidence == Confidence::Strong), "{orphans:?}");
}

/// 0.13.0 with the terminal UI of 0.19.0, for its own wheel has none: what is traced, dashboard,
/// gateway and workers, is 0.13's.
#[test]
fn a_terminal_above_the_gateway_is_the_dashboards() {
    const GRACE: &str = "terminal = \"30s\"";
    let Some(mut driver) = driver_of("0.13.0") else { return };
    let Some(newer) = hermes::venv("0.19.0") else { return };
    let built = "hermes_cli/tui_dist/entry.js";
    let terminal_ui = hermes::packages(&newer).join(built);
    driver.args(["--scenario", "nested", "--wait", "8", "--terminal-ui"]).arg(terminal_ui);
    let profile = include_str!("../../slashtrace/src/profile/hermes.toml");
    assert!(profile.contains(GRACE), "the profile has changed");
    let profile = profile.replace(GRACE, "terminal = \"3s\"");
    // Its gateways are not known before: so it only says whom it would end.
    let setup = Setup::ebpf().profile(profile).flag("--count-calls").flag("--policy=dry-run");
    let setup = setup.flag("--trigger=terminal-orphan=weak").flag("--min-age=1ms");
    let recording = setup.start();
    let did = play(&mut driver);
    let recorded = recording.stop();
    let Tabs { dashboard, first, second, left, .. } = tabs(&did);
    assert_eq!((first.len(), &left), (1, &second), "0.13 ends a tab's worker with the tab");

    for pid in first.iter().chain(&second) {
        let workers = recorded.workers();
        let worker = workers.iter().find(|spawn| spawn.pid == *pid).expect("it is told");
        let parent = worker.parent.as_ref().expect("a gateway");
        assert_ne!(parent.process.pid, dashboard, "the gateway is below the terminal: {worker:?}");
        assert_eq!(worker.opener.as_ref().map(|opener| opener.pid), Some(dashboard), "{worker:?}");
        let place = worker.terminal.expect("a controlling terminal");
        let told = recorded.records.iter().filter_map(|record| match &record.body {
            Body::Terminal(event) if event.index == place.index => Some(&**event),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        let held = |event: &&TerminalEvent| {
            event.master.as_ref().is_some_and(|master| master.pid == dashboard)
        };
        assert!(told.iter().any(held), "{told:?}");
        let closed = told.iter().filter(|event| event.state == TerminalState::Closed).count();
        assert_eq!(closed, 1, "each tab was closed once: {told:?}");
    }
    let ended = recorded.records.iter().filter_map(|record| match &record.body {
        Body::Action(action) => action.worker,
        _ => None,
    });
    let ended: BTreeSet<u32> = ended.map(|worker| worker.pid).collect();
    assert!(ended.is_disjoint(&second), "it is in use: {ended:?}\n{recorded}");
}
