//! What is true of every history, tried on histories that nobody thought of.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*};

use super::{
    driver::Driver,
    scenario::S,
    world::{Happened, Step, World, any_body, step},
};
use crate::{
    engine::Engine,
    model::{
        Body, Confidence, FORMAT_VERSION, Finding, FindingState, FindingWorker, Identity, Kind,
        Mode, Record, Tick,
    },
    reaper::{Decision, Judge, Policy},
    roster::Roster,
};

/// A day: every grace and window is over by then.
const DAY: u64 = 86_400 * S;

/// Feeds what happened as the daemon would, ticking when due, then lets a day pass.
fn drive(happened: &[Happened]) -> Driver {
    let mut driver = Driver::new();
    let mut now = 0;
    for (at, _, body) in happened {
        now = now.max(*at);
        driver.pass(now, 10_000);
        driver.feed(*at, body.clone());
    }
    driver
}

/// What is open: each finding's name and whom it names.
fn open(driver: &Driver) -> BTreeMap<String, (Vec<Identity>, Vec<Identity>)> {
    let named = |finding: &Finding| {
        let workers = finding.workers.iter().map(FindingWorker::identity).collect();
        (workers, finding.processes.clone())
    };
    driver.open.iter().map(|(id, finding)| (id.clone(), named(finding))).collect()
}

fn judge_again(records: &[Record]) -> Vec<Finding> {
    let (mut engine, mut roster) = (Engine::new(), Roster::blank());
    let judge = |record: &Record| {
        roster.observe(record);
        engine.observe(record, &roster)
    };
    records.iter().flat_map(judge).collect()
}

/// Whom the reaper would choose, and when.
fn chosen(records: &[Record]) -> Vec<(u64, Decision)> {
    let mut judge = Judge::new(Policy { mode: Mode::Enforce, ..Policy::default() });
    let mut chosen = Vec::new();
    let mut roster = Roster::blank();
    for record in records {
        roster.observe(record);
        judge.observe(record, &roster);
        let now = record.boottime_ns;
        chosen.extend(judge.decide(now, &roster).into_iter().map(|decision| (now, decision)));
    }
    chosen
}

const OF_GROUPS: [Kind; 4] =
    [Kind::SpawnPerCall, Kind::DuplicateWorker, Kind::LostWorker, Kind::Accumulation];

/// What is found in a window of time, of which a checkpoint does not tell.
const OVER_TIME: [Kind; 2] = [Kind::RespawnChurn, Kind::Accumulation];

/// The same with some neighbours swapped that are about different processes and happened at nearly one
/// time.
fn swapped(happened: &[Happened], swaps: &[bool]) -> Vec<Happened> {
    let mut swapped = happened.to_vec();
    let mut at = 0;
    while at + 1 < swapped.len() {
        let close = swapped[at + 1].0 - swapped[at].0 <= 10_000_000;
        if swaps[at % swaps.len()] && close && swapped[at].1 != swapped[at + 1].1 {
            swapped.swap(at, at + 1);
            at += 1;
        }
        at += 1;
    }
    swapped
}

/// What is open at a later time.
fn open_at(happened: &[Happened], later: u64) -> BTreeMap<String, (Vec<Identity>, Vec<Identity>)> {
    let mut driver = drive(happened);
    driver.pass(later, 10_000);
    open(&driver)
}

/// What the property below found: each once made the order of two records matter.
#[test]
fn the_order_of_records_that_once_mattered_does_not() {
    let spawn = |gateway, session| Step::Spawn { gateway, session };
    let serve = Step::Serve { worker: 0, calls: 0 };
    let histories = [
        // A worker is launched while another one of its session ends.
        vec![
            spawn(102, 1),
            spawn(100, 0),
            spawn(102, 1),
            serve,
            Step::Launch(0),
            Step::Exit(1),
            Step::Wait(0),
        ],
        // One becomes another program while another one of its session ends.
        vec![
            spawn(100, 0),
            spawn(100, 0),
            spawn(100, 0),
            Step::Leave(0),
            Step::Exit(0),
            Step::Wait(0),
        ],
    ];
    for steps in histories {
        let happened = World::play(&steps, false);
        for at in 0..happened.len() {
            let swaps: Vec<bool> = (0..happened.len()).map(|it| it == at).collect();
            let later = happened[happened.len() - 1].0 + 700 * S;
            let other = swapped(&happened, &swaps);
            assert_eq!(open_at(&happened, later), open_at(&other, later), "{steps:?}, {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn one_worker_a_group_is_never_a_finding_of_groups(steps in vec(step(), 0..120)) {
        let mut driver = drive(&World::play(&steps, true));
        driver.pass(DAY, 10_000);
        let found = driver.said.iter().find(|finding| OF_GROUPS.contains(&finding.kind));
        prop_assert!(found.is_none(), "{found:?}");
    }

    /// Whoever is started again knows from a checkpoint what the one before it knew.
    #[test]
    fn a_checkpoint_is_as_good_as_all_records(steps in vec(step(), 0..120), at in 0_usize..200) {
        let happened = World::play(&steps, false);
        let (before, after) = happened.split_at(at.min(happened.len()));
        let mut told = drive(before);
        let mut again = told.resume();
        // Judged by what it was told alone, everything is as it was.
        let now = before.iter().map(|one| one.0).max().unwrap_or(0);
        for driver in [&mut told, &mut again] {
            driver.feed(now, Body::Tick(Tick::default()));
        }
        let said = |driver: &Driver, since: usize| {
            let said = driver.said[since..].iter().filter(|it| !OVER_TIME.contains(&it.kind));
            said.map(|it| (it.id.clone(), it.state, it.confidence)).collect::<Vec<_>>()
        };
        prop_assert_eq!(said(&again, 0), []);
        let since = told.said.len();
        let end = happened.last().map_or(0, |last| last.0) + DAY;
        for driver in [&mut told, &mut again] {
            let mut now = now;
            for (at, _, body) in after {
                now = now.max(*at);
                driver.pass(now, 10_000);
                driver.feed(*at, body.clone());
            }
            driver.pass(end, 10_000);
        }
        prop_assert_eq!(said(&again, 0), said(&told, since));
    }

    #[test]
    fn replay_equals_live(steps in vec(step(), 0..120), quarters in 1_u64..20) {
        let happened = World::play(&steps, false);
        let mut live = drive(&happened);
        let end = happened.last().map_or(0, |last| last.0) + 3_600 * S;
        live.pass(end, 10_000);
        prop_assert_eq!(&judge_again(&live.records), &live.said);

        // A daemon that looks at its clock more often feeds no more for it.
        let mut restless = Driver::new();
        let mut now = 0;
        for (at, _, body) in &happened {
            while now < *at {
                now = (*at).min(now + quarters * S / 4);
                restless.pass(now, 10_000);
            }
            restless.feed(*at, body.clone());
        }
        restless.pass(end, 10_000);
        prop_assert_eq!(&restless.said, &live.said);
    }

    /// A tick makes the roster forget whose time is over, as the next record would: whether it is
    /// given one when nothing else happens changes no finding.
    #[test]
    fn forgetting_earlier_changes_no_finding(steps in vec(step(), 0..120), seconds in 1_u64..90) {
        let happened = World::play(&steps, false);
        let mut sparse = drive(&happened);
        let end = happened.last().map_or(0, |last| last.0) + 3_600 * S;
        sparse.pass(end, 10_000);

        let mut often = Driver::new();
        let mut now = 0;
        let mut until = |driver: &mut Driver, at: u64| {
            while now < at {
                now = at.min(now + seconds * S);
                driver.pass(now, 10_000);
                driver.feed(now, Body::Tick(Tick::default()));
            }
        };
        for (at, _, body) in &happened {
            until(&mut often, *at);
            often.feed(*at, body.clone());
        }
        until(&mut often, end);
        let said = |driver: &Driver| -> Vec<(String, FindingState, Confidence)> {
            driver.said.iter().map(|it| (it.id.clone(), it.state, it.confidence)).collect()
        };
        prop_assert_eq!(said(&often), said(&sparse));
    }

    #[test]
    fn while_a_client_is_connected_abandoned_is_weak(steps in vec(step(), 0..120)) {
        let mut driver = drive(&World::play(&steps, false));
        driver.pass(DAY, 10_000);
        let mut connected = BTreeMap::new();
        for record in &driver.records {
            match &record.body {
                Body::Clients(clients) => {
                    connected.insert(clients.identity(), clients.connected);
                }
                Body::Finding(finding)
                    if finding.kind == Kind::Abandoned && finding.state != FindingState::Closed =>
                {
                    let gateway = finding.gateway.as_ref().expect("it is about one");
                    let id = Identity { pid: gateway.pid, start_ns: gateway.start_ns };
                    let weak = finding.confidence == Confidence::Weak;
                    prop_assert!(connected[&id] == 0 || weak, "{:?}", finding);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_order_within_the_kernels_guarantees_does_not_matter(
        steps in vec(step(), 0..120),
        swaps in vec(any::<bool>(), 120),
    ) {
        let happened = World::play(&steps, false);
        let swapped = swapped(&happened, &swaps);
        let end = happened.last().map_or(0, |last| last.0);
        for later in [end + 2 * S, end + 700 * S, DAY] {
            let (one, other) = (open_at(&happened, later), open_at(&swapped, later));
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn setting_the_wall_clock_changes_nothing(
        records in recordings(),
        at in any::<prop::sample::Index>(),
        hours in -1_000_i64..1_000,
    ) {
        let at = at.index(records.len());
        let mut set = records.clone();
        for record in &mut set[at..] {
            record.time = record.time.checked_add(SignedDuration::from_hours(hours)).unwrap();
        }
        // That a person is told when a worker was spawned is what the wall clock is for.
        let timeless = |mut finding: Finding| {
            finding.workers.iter_mut().for_each(|worker| worker.spawned_at = Timestamp::UNIX_EPOCH);
            finding
        };
        let found = |records: &[Record]| -> Vec<Finding> {
            judge_again(records).into_iter().map(timeless).collect()
        };
        prop_assert_eq!(found(&records), found(&set));
        prop_assert_eq!(chosen(&records), chosen(&set));
    }

    #[test]
    fn nothing_is_found_twice_and_no_record_makes_it_panic(
        bodies in vec((any_body(), prop_oneof![0_u64..100, any::<u64>(), Just(u64::MAX)]), 0..80),
    ) {
        let (mut engine, mut roster) = (Engine::new(), Roster::blank());
        let mut open = BTreeSet::new();
        for (seq, (body, boottime_ns)) in (1_u64..).zip(bodies) {
            let time = if seq % 3 == 0 { Timestamp::MIN } else { Timestamp::MAX };
            let record = Record { v: FORMAT_VERSION, seq, time, boottime_ns, body };
            roster.observe(&record);
            for finding in engine.observe(&record, &roster) {
                let opened = finding.state == FindingState::Opened;
                prop_assert_eq!(open.contains(&finding.id), !opened, "{:?}", finding);
                if finding.state == FindingState::Closed {
                    open.remove(&finding.id);
                } else {
                    open.insert(finding.id);
                }
            }
            prop_assert!(engine.next_deadline().is_none_or(|due| due > boottime_ns));
        }
    }
}

/// Recordings of made-up worlds, with the findings in them and a day behind them.
pub(crate) fn recordings() -> impl Strategy<Value = Vec<Record>> {
    vec(step(), 0..120).prop_map(|steps| {
        let mut driver = drive(&World::play(&steps, false));
        driver.pass(DAY, 10_000);
        driver.feed(DAY, Body::Tick(Tick::default()));
        driver.records
    })
}
