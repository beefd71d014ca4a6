//! The real dashboard of hermes-agent 0.19.0 with its terminal UI: a tab that loses a worker is
//! closed, a second one goes on.

use std::{collections::BTreeSet, process::Command};

use slashtrace::model::{Body, Confidence, Finding, Kind, TerminalEvent, TerminalState};
use slashtrace_tests::{
    Setup,
    fixtures::{Did, play},
    hermes, host,
    recorded::pids,
};

/// Longer than the terminal grace of the built-in profile.
const WAIT: &str = "40";

#[test]
fn a_lost_worker_outlives_its_tab_and_the_other_tab_is_let_alone() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if Command::new("node").arg("--version").output().is_err() {
        host::skip("no node: the terminal UI of hermes-agent cannot run");
        return;
    }
    let Some(folder) = hermes::venv("0.19.0") else { return };
    let recording = Setup::ebpf().profile("").start();
    let mut driver = Command::new(folder.join("bin/python"));
    driver.arg(host::fixture("hermes/dashboard.py"));
    let did = play(driver.args(["--scenario", "terminals", "--wait", WAIT]));
    let recorded = recording.stop();

    let only = |what: &str| -> &Did {
        did.iter().find(|did| did.did == what).unwrap_or_else(|| panic!("no {what}: {did:?}"))
    };
    let dashboard = only("begin").gateway.expect("it names its pid");
    let second: BTreeSet<u32> = only("tabs").second.iter().copied().collect();
    let left: BTreeSet<u32> = only("left").pids.iter().copied().collect();
    let left_at = only("left").boottime_ns;
    let lost: BTreeSet<u32> =
        only("tabs").first.iter().copied().filter(|pid| left.contains(pid)).collect();
    assert!(!second.is_empty() && second.is_subset(&left), "the second tab's: {did:?}");
    let last_call = did.iter().rfind(|did| did.did == "call").expect("it calls");
    assert_eq!(last_call.answered, Some(true), "the second tab answers to the end");

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
        host::skip("hermes-agent lost no worker this time, whenever the command was typed");
        return;
    }
    let orphans: Vec<&&Finding> =
        findings.iter().filter(|finding| finding.kind == Kind::TerminalOrphan).collect();
    let named: BTreeSet<u32> = orphans.iter().flat_map(|finding| pids(finding)).collect();
    assert!(lost.is_subset(&named), "left are {lost:?}, named {named:?}\n{recorded}");
    // The tree is flat and the session fresh: only the moment of opening links the two.
    assert!(orphans.iter().all(|finding| finding.confidence == Confidence::Weak), "{orphans:?}");
}
