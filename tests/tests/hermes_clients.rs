//! The real dashboard of hermes-agent 0.13.0: three of four tabs drop. Their workers are named, the
//! fourth's is not; none is ended unless that is asked for, and then those three. 0.16.0 and 0.18.2 end
//! them by themselves, and nothing is named: that is tested where `SLASHTRACE_EVERY_HERMES` is set.

use std::{collections::BTreeSet, env, fs, process::Command};

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

/// A version that ends the workers of tabs that dropped within 20 s, by the built-in profile's graces.
fn cleans_up(version: &str, flags: &[&str]) {
    if env::var_os("SLASHTRACE_EVERY_HERMES").is_none() {
        host::skip("SLASHTRACE_EVERY_HERMES is not set");
        return;
    }
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(venv) = hermes::venv(version) else { return };
    let mut driver = Command::new(venv.join("bin/python"));
    driver.arg(host::fixture("hermes/dashboard.py"));
    driver.args(["--scenario", "dropped", "--wait", "40", "--hold"]).args(flags);
    let (mut recording, mut own) = (None, None);
    let did = play_with(&mut driver, |begin| {
        own = begin.gateway;
        recording = Some(Setup::ebpf().profile("").flag("--count-calls").start());
    });
    let recorded = recording.expect("it began").stop();
    let only = |what: &str| -> &Did {
        did.iter().find(|did| did.did == what).unwrap_or_else(|| panic!("no {what}: {did:?}"))
    };
    let (first, second) = (&only("tabs").first, &only("tabs").second);
    assert_eq!((first.len(), second.len()), (3, 1), "{did:?}");
    let left = &only("left").pids;
    assert!(left.contains(&second[0]), "{did:?}");
    assert!(first.iter().all(|pid| !left.contains(pid)), "{did:?}");
    let of_it = |it: &&Finding| it.gateway.as_ref().map(|gateway| gateway.pid) == own;
    let left_at = only("left").boottime_ns;
    let before = recorded.records.iter().filter(|record| record.boottime_ns <= left_at);
    let found: Vec<&Finding> = before.filter_map(finding).filter(of_it).collect();
    assert!(found.is_empty(), "{found:#?}\n{recorded}");
}

#[test]
fn hermes_agent_0_16_0_ends_workers_of_tabs_that_dropped() {
    cleans_up("0.16.0", &["--plain"]);
}

#[test]
fn hermes_agent_0_18_2_ends_workers_of_tabs_that_dropped() {
    cleans_up("0.18.2", &[]);
}
