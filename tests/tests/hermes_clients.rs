//! The real dashboard of hermes-agent 0.13.0: three of four tabs drop. Their workers are named, the
//! fourth's is not; none is ended unless that is asked for, and then those three.

use std::{collections::BTreeSet, fs, process::Command};

use slashtrace::model::{Body, Confidence, Finding, Kind, Outcome};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play_with},
    hermes, host,
    recorded::{finding, pids},
};

/// Longer than the client grace of [`profile`], and than a sample.
const WAIT: &str = "15";

/// The built-in profile with a client grace that a test can wait for.
fn profile() -> String {
    let file = host::checkout().join("slashtrace/src/profile/hermes.toml");
    let text = fs::read_to_string(file).expect("the built-in profile");
    assert!(text.contains("client = \"30m\""), "the profile has changed");
    text.replace("client = \"30m\"", "client = \"5s\"")
}

/// Four tabs of which three drop, watched in `enforce` with these triggers; who dropped, who stayed,
/// what was recorded.
fn dropped(triggers: &[&str]) -> Option<(BTreeSet<u32>, u32, Recorded)> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    let mut driver = Command::new(hermes::venv("0.13.0")?.join("bin/python"));
    driver.arg(host::fixture("hermes/dashboard.py"));
    driver.args(["--scenario", "dropped", "--wait", WAIT, "--hold"]);
    let mut recording = None;
    let mut own = None;
    let did = play_with(&mut driver, |begin| {
        // Nothing but the workers of this dashboard may be ended.
        let gateway = begin.gateway.expect("it names its pid");
        own = Some(gateway);
        let setup = Setup::ebpf().profile(profile()).flag("--policy=enforce");
        let setup = setup.flag("--count-calls").flag("--min-age=1ms");
        let setup = triggers.iter().fold(setup, |setup, trigger| setup.flag(trigger));
        recording = Some(setup.flag(&format!("--gateway={gateway}")).start());
    });
    let recorded = recording.expect("it began").stop();
    let only = |what: &str| -> &Did {
        did.iter().find(|did| did.did == what).unwrap_or_else(|| panic!("no {what}: {did:?}"))
    };
    let last_call = did.iter().rfind(|did| did.did == "call").expect("it calls");
    assert_eq!(last_call.answered, Some(true), "the fourth tab answers to the end");
    let (first, second) = (&only("tabs").first, &only("tabs").second);
    assert_eq!((first.len(), second.len()), (3, 1), "{did:?}");
    assert!(only("left").pids.contains(&second[0]), "{did:?}");
    let left_at = only("left").boottime_ns;
    let abandoned: Vec<&Finding> = recorded
        .records
        .iter()
        .filter(|record| record.boottime_ns <= left_at)
        .filter_map(finding)
        .filter(|finding| finding.kind == Kind::Abandoned)
        // Other tests have dashboards of their own.
        .filter(|finding| finding.gateway.as_ref().map(|gateway| gateway.pid) == own)
        .collect();
    let dropped: BTreeSet<u32> = first.iter().copied().collect();
    let named: BTreeSet<u32> = abandoned.iter().flat_map(|finding| pids(finding)).collect();
    assert_eq!(named, dropped, "{recorded}");
    // The fourth tab may have resumed one of their sessions, for all that is known.
    assert!(
        abandoned.iter().all(|finding| finding.confidence == Confidence::Weak),
        "{abandoned:?}"
    );
    Some((dropped, second[0], recorded))
}

fn ended(recorded: &Recorded) -> BTreeSet<u32> {
    let actions = recorded.records.iter().filter_map(|record| match &record.body {
        Body::Action(action) if action.outcome == Some(Outcome::Sent) => action.worker,
        _ => None,
    });
    actions.map(|worker| worker.pid).collect()
}

#[test]
fn workers_of_tabs_that_dropped_are_named_and_let_alone() {
    // The default triggers, and this one as it is without a confidence.
    let triggers =
        ["--trigger=gateway-orphan", "--trigger=terminal-orphan", "--trigger=unreachable"];
    let Some((_, _, recorded)) = dropped(&[&triggers[..], &["--trigger=abandoned"]].concat())
    else {
        return;
    };
    assert_eq!(ended(&recorded), BTreeSet::new(), "{recorded}");
}

#[test]
fn workers_of_tabs_that_dropped_are_ended_where_that_is_asked_for() {
    let Some((dropped, _, recorded)) = dropped(&["--trigger=abandoned=weak"]) else { return };
    assert_eq!(ended(&recorded), dropped, "{recorded}");
}
