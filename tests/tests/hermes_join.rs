//! The real dashboard of hermes-agent 0.19.0, a flat tree: one gateway serves many tabs with terminals,
//! and its workers have none of their own. Which worker is on which terminal is joined, and compared with
//! what the gateway itself knows.
//!
//! Runs when nothing is built: on a machine that is short of CPU a tab loses its connection, and
//! hermes-agent ends its worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use slashtrace::model::{Body, Confidence, FindingState, Kind, Outcome};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play_with},
    hermes, host,
    reaping::actions,
    recorded::finding,
};

/// The terminal grace of the built-in profile, ns, and how long the end of a worker may take.
const GRACE_NS: u64 = 30_000_000_000;
const MOMENT_NS: u64 = 5_000_000_000;

fn driver(flags: &[&str]) -> Option<Command> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    if Command::new("node").arg("--version").output().is_err() {
        host::skip("no node: the terminal UI of hermes-agent cannot run");
        return None;
    }
    let mut driver = Command::new(hermes::venv("0.19.0")?.join("bin/python"));
    driver.arg(host::fixture("hermes/tabs.py")).arg("--hold").args(flags);
    Some(driver)
}

/// Which terminal each worker is on, as the gateway knows it; none for sessions without one.
fn truth(did: &[Did]) -> BTreeMap<u32, Option<u32>> {
    let told = did.iter().filter(|did| did.did == "truth");
    told.map(|did| (did.pid.expect("a worker"), did.index)).collect()
}

/// How often it was joined rightly, not at all, and wrongly.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    strong: usize,
    weak: usize,
    unsure: usize,
    wrong: usize,
    /// Sessions without a terminal that were joined to none.
    plain: usize,
}

impl Score {
    fn of(truth: &BTreeMap<u32, Option<u32>>, recorded: &Recorded) -> Self {
        let mut named: BTreeMap<u32, (u32, Confidence)> = BTreeMap::new();
        for found in recorded.records.iter().filter_map(finding) {
            let orphan = found.kind == Kind::TerminalOrphan && found.state != FindingState::Closed;
            let Some(place) = found.terminal.filter(|_| orphan) else { continue };
            named.extend(found.workers.iter().map(|it| (it.pid, (place.index, found.confidence))));
        }
        let mut score = Self::default();
        for (worker, index) in truth {
            let count = match (index, named.get(worker)) {
                (None, None) => &mut score.plain,
                (Some(_), None) => &mut score.unsure,
                (Some(index), Some((found, confidence))) if index == found => {
                    if *confidence == Confidence::Weak {
                        &mut score.weak
                    } else {
                        &mut score.strong
                    }
                }
                (_, Some(_)) => &mut score.wrong,
            };
            *count += 1;
        }
        score
    }
}

/// Opens tabs, and closes all of them at once, which names every worker that is joined to one.
fn joined(tabs: usize, together: bool) -> Option<Score> {
    const GRACE: &str = "terminal = \"30s\"";
    let (count, spread) = (tabs.to_string(), (tabs * 2).to_string());
    let mut flags = vec!["--tabs", &count, "--spread", &spread, "--sidecars", "--after", "8"];
    if together {
        flags.push("--together");
    }
    let mut driver = driver(&flags)?;
    let profile = include_str!("../../slashtrace/src/profile/hermes.toml");
    assert!(profile.contains(GRACE), "the profile has changed");
    // Sooner than hermes-agent ends them itself, 20 s after their connection went.
    let profile = profile.replace(GRACE, "terminal = \"2s\"");
    let mut recording = None;
    let did = play_with(&mut driver, |_| {
        recording = Some(Setup::ebpf().profile(profile).flag("--sample-interval=1s").start());
    });
    let recorded = recording.expect("it began").stop();
    let truth = truth(&did);
    assert!(truth.values().flatten().count() >= tabs, "a worker for each tab: {did:?}");
    let score = Score::of(&truth, &recorded);
    assert_eq!(score.wrong, 0, "{score:?}\n{truth:?}\n{recorded}");
    Some(score)
}

#[test]
fn workers_are_joined_to_the_right_terminal_or_to_none() {
    println!("tabs            strong  weak  unsure  wrong  without a terminal");
    let mut apart = Score::default();
    for together in [false, true] {
        for tabs in [2, 4, 8] {
            let Some(score) = joined(tabs, together) else { return };
            let how = if together { "at once" } else { "in turn" };
            println!(
                "{tabs} {how:12} {:7} {:5} {:7} {:6} {:19}",
                score.strong, score.weak, score.unsure, score.wrong, score.plain
            );
            if !together {
                apart.strong += score.strong;
                apart.unsure += score.unsure + score.weak;
            }
        }
    }
    // Tabs that people open one after the other. On a busy machine some of them meet; none may be
    // wrong (above).
    assert!(apart.strong > apart.unsure, "{apart:?}");
}

/// No flag but the policy, and whose workers it is about.
#[test]
fn the_worker_of_a_closed_terminal_is_ended_by_default_and_no_other_tabs() {
    let flags = ["--tabs", "4", "--spread", "16", "--sidecars", "--close-one", "--idle", "40"];
    for attempt in 0..3 {
        let Some(mut driver) = driver(&[&flags[..], &["--wait", "45"]].concat()) else { return };
        let mut recording = None;
        let did = play_with(&mut driver, |begin| {
            let gateway = begin.gateway.expect("it names its pid");
            let setup = Setup::ebpf().profile("").flag("--policy=enforce");
            recording = Some(setup.flag(&format!("--gateway={gateway}")).start());
        });
        let recorded = recording.expect("it began").stop();
        let tabs = did.iter().find(|did| did.did == "tabs").expect("it closes one");
        let set = |pids: &[u32]| pids.iter().copied().collect::<BTreeSet<u32>>();
        let (first, others) = (set(&tabs.first), set(&tabs.second));
        assert_eq!((first.len(), others.len()), (1, 3), "{did:?}");
        let left = set(&did.iter().find(|did| did.did == "left").expect("it tells").pids);
        let sent: Vec<_> = recorded
            .records
            .iter()
            .filter_map(|record| match &record.body {
                Body::Action(action) if action.outcome == Some(Outcome::Sent) => {
                    Some((record.boottime_ns, action.worker.expect("a worker").pid))
                }
                _ => None,
            })
            .collect();
        let ended: BTreeSet<u32> = sent.iter().map(|(_, pid)| *pid).collect();
        assert!(ended.is_subset(&first), "another tab's: {ended:?} {first:?}\n{recorded}");
        assert!(others.is_subset(&left), "the other tabs are in use: {left:?}\n{recorded}");
        let answered = did.iter().rfind(|did| did.did == "call").expect("they type");
        assert_eq!(answered.answered, Some(true), "the other tabs answer to the end");
        if ended.is_empty() && attempt < 2 {
            println!("the tabs met, and none was joined for sure: once more");
            continue;
        }
        assert_eq!(ended, first, "{:?}\n{recorded}", actions(&recorded.records));
        let took = sent[0].0 - tabs.boottime_ns;
        assert!(took <= GRACE_NS + MOMENT_NS, "{took} ns after its terminal closed");
        return;
    }
}

/// The same without terminals' help: by which connection each session was asked for. One tab closes,
/// and its session's worker is abandoned, although other tabs are connected; theirs are not.
#[test]
fn the_worker_whose_own_client_left_is_abandoned_and_no_other_tabs() {
    const GRACE: &str = "client = \"30m\"";
    let flags = ["--tabs", "3", "--spread", "12", "--sidecars", "--close-one", "--idle", "8"];
    let profile = include_str!("../../slashtrace/src/profile/hermes.toml");
    assert!(profile.contains(GRACE), "the profile has changed");
    let profile = profile.replace(GRACE, "client = \"5s\"");
    for attempt in 0..3 {
        let Some(mut driver) = driver(&[&flags[..], &["--wait", "15"]].concat()) else { return };
        let mut recording = None;
        let did = play_with(&mut driver, |_| {
            let setup = Setup::ebpf().profile(profile.clone());
            recording = Some(setup.flag("--sample-interval=1s").start());
        });
        let recorded = recording.expect("it began").stop();
        let tabs = did.iter().find(|did| did.did == "tabs").expect("it closes one");
        let until = did.iter().rfind(|did| did.did == "left").expect("it tells").boottime_ns;
        let mut named: BTreeSet<u32> = BTreeSet::new();
        for record in &recorded.records {
            let while_connected = (tabs.boottime_ns..until).contains(&record.boottime_ns);
            let Some(found) = finding(record).filter(|_| while_connected) else { continue };
            if found.kind == Kind::Abandoned && found.state != FindingState::Closed {
                println!("{}: {}", found.confidence, found.text);
                named.extend(found.workers.iter().map(|worker| worker.pid));
            }
        }
        let others: BTreeSet<u32> = tabs.second.iter().copied().collect();
        assert!(
            named.is_disjoint(&others),
            "their tabs are open: {named:?} {others:?}\n{recorded}"
        );
        let first: BTreeSet<u32> = tabs.first.iter().copied().collect();
        if !first.is_subset(&named) && attempt < 2 {
            println!("the tabs met, and none was joined: once more");
            continue;
        }
        assert!(first.is_subset(&named), "{first:?} {named:?}\n{recorded}");
        return;
    }
}
