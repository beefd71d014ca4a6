//! The real hermes-agent with `--policy enforce` and every trigger, however unsure: through every
//! scenario that leaks, and those that do not, a session that is in use keeps its worker and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    thread,
    time::Duration,
};

use slashtrace::model::{Body, Finding, FindingState, Outcome, Record};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play_with},
    hermes, host,
    reaping::{actions, every_trigger},
    recorded::workers,
};

/// Shorter graces than the built-in profile's; but a busy worker of 0.19 ends up to 7 s behind its
/// gateway by itself, a session 20 s and more behind its client, and a restart overlaps.
const GRACES: &str = r#"
[graces]
overlap = "3s"
orphan = "11s"
terminal = "5s"
client = "32s"
unreachable = "11s"
"#;
/// Longer than it takes to end somebody.
const MOMENT_NS: u64 = 1_000_000_000;
/// Scenarios that run at the same time: starting Python is what they take time for.
const AT_ONCE: usize = 4;

/// A scenario, and how many workers hermes-agent leaves in it by itself.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    left_alone: usize,
    /// Whether what is left is ended: a trigger covers it.
    ended: bool,
}

const fn scenario(name: &'static str, left_alone: usize, ended: bool) -> Scenario {
    Scenario { name, left_alone, ended }
}

/// What came of it.
struct Row {
    scenario: Scenario,
    spawned: usize,
    ended: BTreeSet<u32>,
    left: BTreeSet<u32>,
    /// Of those, whom a finding showed to be unused by then.
    spared: BTreeSet<u32>,
    /// Workers in use that got a signal, or did not answer.
    touched: usize,
}

fn profile() -> String {
    let built_in = include_str!("../../slashtrace/src/profile/hermes.toml");
    let (worker, rest) = built_in.split_once("[graces]").expect("it has graces");
    let (_, rest) = rest.split_once("[windows]").expect("and windows behind them");
    format!("{worker}{GRACES}\n[windows]{rest}")
}

fn driver(version: &str, scenario: Scenario) -> Option<Command> {
    let mut driver = Command::new(hermes::venv(version)?.join("bin/python"));
    if scenario.name == "dropped" {
        driver.arg(host::fixture("hermes/dashboard.py")).args(["--wait", "44"]);
    } else {
        driver.arg(host::fixture("hermes/driver.py")).arg("--keep");
    }
    driver.args(["--hold", "--scenario", scenario.name]);
    Some(driver)
}

fn play(mut driver: Command, scenario: Scenario) -> Row {
    let mut recording = None;
    let did = play_with(&mut driver, |begin| {
        let setup = every_trigger(Setup::ebpf().profile(profile()));
        let setup = setup.flag("--policy=enforce").flag("--min-age=1ms");
        // Nothing but the workers of these gateways may be ended.
        let gateways = begin.gateway.iter().chain(&begin.pids);
        let setup = gateways.fold(setup, |setup, pid| setup.flag(&format!("--gateway={pid}")));
        recording = Some(setup.start());
    });
    let recording = recording.expect("it began");
    let tracer = recording.pid();
    let recorded = recording.stop();
    row(scenario, &did, &recorded, tracer)
}

fn row(scenario: Scenario, did: &[Did], recorded: &Recorded, tracer: u32) -> Row {
    let name = scenario.name;
    let only = |what: &str| {
        let mut found = did.iter().filter(|did| did.did == what);
        found.next().unwrap_or_else(|| panic!("{name}: no {what} in {did:?}"))
    };
    let begin = only("begin");
    let gateways: BTreeSet<u32> = begin.gateway.iter().chain(&begin.pids).copied().collect();
    let in_use: BTreeSet<u32> = match did.iter().find(|did| did.did == "kept") {
        Some(kept) => kept.pid.into_iter().collect(),
        None => only("tabs").second.iter().copied().collect(),
    };
    assert_eq!(in_use.len(), 1, "{name}: {did:?}");
    let answered = did.iter().rfind(|did| did.answered.is_some()).and_then(|did| did.answered);
    let ended = ended(&recorded.records);
    assert!(signalled(&recorded.records, tracer).is_subset(&ended), "{name}\n{recorded}");
    let spawned = workers(&recorded.records).into_iter().filter(|worker| {
        let parent = worker.parent.as_ref().map(|parent| parent.process.pid);
        parent.is_some_and(|pid| gateways.contains(&pid)) && !in_use.contains(&worker.pid)
    });
    let left: BTreeSet<u32> = only("left").pids.iter().copied().collect();
    let left: BTreeSet<u32> = left.difference(&in_use).copied().collect();
    let unused = unused(&recorded.records, only("left").boottime_ns - MOMENT_NS);
    let spared = left.intersection(&unused).copied().collect();
    let touched = ended.intersection(&in_use).count() + usize::from(answered != Some(true));
    assert_eq!(touched, 0, "{name}: what is in use\n{did:?}\n{recorded}");
    Row { scenario, spawned: spawned.count(), ended, left, spared, touched }
}

/// Workers that the reaper says it signalled.
fn ended(records: &[Record]) -> BTreeSet<u32> {
    let sent = actions(records).into_iter().filter(|action| action.outcome == Some(Outcome::Sent));
    sent.filter_map(|action| action.worker).map(|worker| worker.pid).collect()
}

/// Workers that findings which stood at that moment showed to be unused.
fn unused(records: &[Record], at: u64) -> BTreeSet<u32> {
    let mut standing: BTreeMap<&str, &Finding> = BTreeMap::new();
    for record in records.iter().take_while(|record| record.boottime_ns <= at) {
        if let Body::Finding(finding) = &record.body {
            standing.insert(&finding.id, finding);
        }
    }
    let standing = standing.into_values().filter(|it| it.state != FindingState::Closed);
    let workers = standing.flat_map(|finding| &finding.workers);
    workers.filter(|worker| worker.unused).map(|worker| worker.pid).collect()
}

/// Processes that the kernel saw it signal.
fn signalled(records: &[Record], tracer: u32) -> BTreeSet<u32> {
    let signals = records.iter().filter_map(|record| match &record.body {
        Body::Signal(signal) => Some(signal),
        _ => None,
    });
    let of_tracer =
        signals.filter(|it| it.sender.as_ref().is_some_and(|sender| sender.pid == tracer));
    of_tracer.map(|signal| signal.pid).collect()
}

fn check(version: &str, scenarios: &[Scenario]) {
    if !host::may_load_kernel_programs() || hermes::venv(version).is_none() {
        return;
    }
    host::slashtrace();
    let mut rows = Vec::new();
    for some in scenarios.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|&scenario| {
                    thread::sleep(Duration::from_millis(500));
                    scope.spawn(move || driver(version, scenario).map(|it| play(it, scenario)))
                })
                .collect();
            for one in running {
                rows.extend(one.join().expect("it says itself what failed"));
            }
        });
    }
    println!("hermes-agent {version} under enforce, every trigger");
    println!("scenario      spawned  left by itself  ended  left now  in use touched");
    for row in &rows {
        println!(
            "{:13} {:7} {:15} {:6} {:9} {:15}",
            row.scenario.name,
            row.spawned,
            row.scenario.left_alone,
            row.ended.len(),
            row.left.len(),
            row.touched
        );
    }
    for row in rows {
        let Scenario { name, left_alone, ended } = row.scenario;
        assert!(row.ended.len() <= left_alone, "{name}: more than is left: {:?}", row.ended);
        assert!(row.spared.is_empty(), "{name}: unused and not ended: {:?}", row.spared);
        if ended {
            assert!(row.left.is_empty(), "{name}: what is left is ended: {:?}", row.left);
        }
    }
}

#[test]
fn hermes_agent_0_13_0() {
    check(
        "0.13.0",
        &[
            scenario("healthy", 0, true),
            // Each of them has served a call: which one the session holds is not to be seen.
            scenario("resume3", 3, false),
            scenario("race", 0, true),
            // Which client a worker was for cannot always be told: this machine is busy here.
            scenario("dropped", 3, false),
            scenario("model-switch", 0, true),
            scenario("kill-idle", 0, true),
            scenario("kill-busy", 1, true),
        ],
    );
}

#[test]
fn hermes_agent_0_19_0() {
    check(
        "0.19.0",
        &[
            scenario("healthy", 0, true),
            scenario("resume3", 2, false),
            // One that served the first call may look as if it were in use.
            scenario("race", 1, false),
            scenario("dropped", 0, true),
            scenario("model-switch", 0, true),
            scenario("kill-idle", 0, true),
            scenario("kill-busy", 0, true),
        ],
    );
}
