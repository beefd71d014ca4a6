//! Every view says the same of the same recording, and what a naive reading of it comes to: who is a
//! worker, who lives, whose they are. The views are the roster, the tally, `ps` from a snapshot, and
//! every format of a report.

use std::collections::{BTreeMap, BTreeSet};

use anstream::adapter::strip_str;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    digest::{Digest, Report, Session},
    facts, junit, ps,
    samples::{S, at, exit, finding, gateway, sample, spawn, start},
    table,
};
use crate::{
    daemon::tally::Tally,
    model::{
        Body, Confidence, Exec, FindingState, Identity, Kind, ParentSource, Record, Role, Sample,
        Source, Stop,
    },
    profile::Profile,
    roster::Roster,
    sink::Sink as _,
};

const GATEWAYS: [u32; 2] = [100, 101];
const PIDS: std::ops::Range<u32> = 200..206;

/// Parent, session and whether it was there before: what each worker is spawned as.
type World = BTreeMap<u32, (u32, Option<&'static str>, bool)>;

/// What is reported of a process.
#[derive(Clone, Copy, Debug)]
enum Told {
    Spawn(u32),
    Exec(u32, bool),
    Exit(u32),
    Sample(u32, char),
    Finding(u32, Kind, FindingState),
}

fn world() -> impl Strategy<Value = World> {
    let one = |pid: u32| {
        let parents = GATEWAYS.into_iter().chain(PIDS.start..pid).collect::<Vec<_>>();
        (select(parents), select(vec![None, Some("K"), Some("K"), Some("L")]), any::<bool>())
    };
    PIDS.map(one).collect::<Vec<_>>().prop_map(|all| PIDS.zip(all).collect())
}

fn told() -> impl Strategy<Value = Told> {
    let pid = || PIDS;
    let state = select(vec![FindingState::Opened, FindingState::Updated, FindingState::Closed]);
    let kind = select(vec![Kind::DuplicateWorker, Kind::GatewayOrphan]);
    prop_oneof![
        6 => pid().prop_map(Told::Spawn),
        2 => (pid(), any::<bool>()).prop_map(|(pid, worker)| Told::Exec(pid, worker)),
        2 => select(GATEWAYS.into_iter().chain(PIDS).collect::<Vec<_>>()).prop_map(Told::Exit),
        2 => (pid(), select(vec!['S', 'S', 'Z', 'X'])).prop_map(|(pid, s)| Told::Sample(pid, s)),
        1 => (pid(), kind, state).prop_map(|(pid, kind, state)| Told::Finding(pid, kind, state)),
    ]
}

fn body(world: &World, told: Told) -> Body {
    match told {
        Told::Spawn(pid) => {
            let (parent, session, inherited) = world[&pid];
            let mut spawn = spawn(pid, gateway(parent), "");
            spawn.session = session.map(str::to_owned);
            spawn.inherited = inherited;
            if let Some(parent) = spawn.parent.as_mut().filter(|_| inherited) {
                parent.how = ParentSource::Proc;
            }
            Body::Spawn(Box::new(spawn))
        }
        Told::Exec(pid, is_worker) => Body::Exec(Exec {
            pid,
            start_ns: u64::from(pid) * S,
            role: Role::Worker,
            comm: "sh".to_owned(),
            argv0: None,
            is_worker,
            helper: None,
            source: Source::Kernel,
        }),
        Told::Exit(pid) => {
            let role = if PIDS.contains(&pid) { Role::Worker } else { Role::Gateway };
            Body::Exit(crate::model::Exit { role, ..exit(pid) })
        }
        Told::Sample(pid, state) => {
            Body::Sample(Sample { state, ..sample(pid, u64::from(pid) << 10, Some(1)) })
        }
        Told::Finding(pid, kind, state) => {
            let mut found = finding(kind, Confidence::Strong, &[pid]);
            found.state = state;
            found.session = world[&pid].1.map(str::to_owned);
            Body::Finding(Box::new(found))
        }
    }
}

/// What the records come to, as the roster, the tally and the digest have it.
fn recorded(world: &World, history: &[Told]) -> (Roster, Tally, Report) {
    let (mut digest, mut roster, mut tally) = (Digest::new(), Roster::blank(), Tally::default());
    let stop = Stop { reason: "duration".to_owned(), counters: BTreeMap::new(), complete: true };
    let bodies = [Body::Start(Box::new(start(true)))]
        .into_iter()
        .chain(history.iter().map(|&told| body(world, told)))
        .chain([Body::Stop(stop)]);
    for (seq, body) in (1..).zip(bodies) {
        let record = Record { seq, ..at(300 + seq, body) };
        roster.observe(&record);
        tally.record(&record, &roster);
        digest.record(&record, &roster).unwrap();
    }
    let report = digest.report();
    (roster, tally, report)
}

/// What a row is about: its gateway, whether that is gone, its session, and the workers that live
/// and that ever were.
type Row = (Option<u32>, bool, Option<String>, u64, u64);

/// What a naive reading of the history comes to.
fn expected(world: &World, history: &[Told]) -> BTreeSet<Row> {
    let mut known: Vec<u32> = Vec::new();
    let mut launched_by: BTreeMap<u32, u32> = BTreeMap::new();
    let (mut gone, mut away, mut zombies) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for &told in history {
        match told {
            Told::Spawn(pid) if known.contains(&pid) => {
                away.remove(&pid);
                zombies.remove(&pid);
            }
            Told::Spawn(pid) => {
                let (parent, session, inherited) = world[&pid];
                let same = |a: u32, b: u32| session.is_some() && world[&a].1 == world[&b].1;
                // One that was there before was launched before its parent went away.
                let launched = inherited || !away.contains(&parent);
                if known.contains(&parent) && same(pid, parent) && launched {
                    launched_by.insert(pid, parent);
                }
                for &child in known.iter().filter(|child| world[child].0 == pid) {
                    if same(child, pid) {
                        launched_by.insert(child, pid);
                    }
                }
                known.push(pid);
            }
            Told::Exec(pid, false) if known.contains(&pid) && !gone.contains(&pid) => {
                away.insert(pid);
            }
            // The dead execute nothing.
            Told::Exec(pid, true) if !gone.contains(&pid) => {
                away.remove(&pid);
                zombies.remove(&pid);
            }
            Told::Sample(pid, 'Z') if known.contains(&pid) => {
                zombies.insert(pid);
            }
            Told::Sample(pid, 'S') => {
                zombies.remove(&pid);
            }
            Told::Exit(pid) => {
                gone.insert(pid);
            }
            // Only what is known is sampled.
            Told::Sample(pid, 'X') if known.contains(&pid) => {
                gone.insert(pid);
            }
            _ => {}
        }
    }
    let launchers: BTreeSet<u32> = launched_by.values().copied().collect();
    let mut rows: BTreeMap<(u32, Option<&str>), (u64, u64)> = BTreeMap::new();
    for &pid in known.iter().filter(|pid| !launchers.contains(pid)) {
        let outermost = std::iter::successors(Some(pid), |pid| launched_by.get(pid).copied());
        let root = outermost.last().unwrap_or(pid);
        let lives = [&gone, &away, &zombies].iter().all(|set| !set.contains(&pid));
        let row = rows.entry((world[&root].0, world[&pid].1)).or_default();
        *row = (row.0 + u64::from(lives), row.1 + 1);
    }
    let ended = |pid| history.iter().any(|told| matches!(told, Told::Exit(it) if *it == pid));
    let row = |((gateway, session), (live, spawned)): ((u32, Option<&str>), _)| {
        let gone = ended(gateway);
        (Some(gateway), gone, session.map(str::to_owned), live, spawned)
    };
    rows.into_iter().map(row).collect()
}

fn json_rows(report: &Report) -> Vec<Row> {
    let json = serde_json::to_value(report).unwrap();
    let rows = json["sessions"].as_array().unwrap();
    let number = |row: &serde_json::Value, name: &str| row[name].as_u64().unwrap();
    let lives = json["workers"].as_array().unwrap();
    let row = |(index, row): (usize, &serde_json::Value)| {
        let mine = lives.iter().filter(|life| life["row"] == index);
        let live = mine.clone().filter(|life| life["to_ms"].is_null()).count() as u64;
        let (all, spawned) = (mine.count() as u64, number(row, "spawned"));
        assert_eq!((live, all), (number(row, "live"), spawned), "{row}");
        assert_eq!(number(row, "exited"), spawned - live, "{row}");
        (
            row["gateway"]["pid"].as_u64().map(|pid| pid as u32),
            row["gateway"]["gone"].as_bool().unwrap_or(false),
            row["session"].as_str().map(str::to_owned),
            live,
            spawned,
        )
    };
    rows.iter().enumerate().map(row).collect()
}

/// The rows as they stand in the table, and those of its numbers that stand below.
fn table_rows(report: &Report) -> (Vec<Row>, Option<(u64, u64)>) {
    let mut out = Vec::new();
    table::render(report, None, &mut out).unwrap();
    let text = strip_str(std::str::from_utf8(&out).unwrap()).to_string();
    let mut lines = text.lines();
    let head = lines.next().unwrap();
    if head == "No worker was seen." {
        return (Vec::new(), None);
    }
    let starts = ["SESSION", "LIVE", "SPAWNED"].map(|name| head.find(name).unwrap());
    let ends = ["LIVE", "SPAWNED"].map(|name| head.find(name).unwrap() + name.len());
    let mut rows = Vec::new();
    for line in lines {
        // Dashes of later columns are no ASCII; these columns are.
        let cell = |from: usize, to: usize| line[from..to].trim();
        let (gateway, session) = (cell(0, starts[0]), cell(starts[0], starts[1]));
        let first = |text: &str| text.split(' ').next().unwrap().parse::<u64>().unwrap();
        let numbers = (first(cell(starts[1], ends[0])), first(cell(ends[0], ends[1])));
        if gateway == "total" {
            return (rows, Some(numbers));
        }
        let pid = gateway.split(' ').next().unwrap().parse().ok();
        let session = (session != "unknown").then(|| session.to_owned());
        rows.push((pid, gateway.ends_with(", gone"), session, numbers.0, numbers.1));
    }
    panic!("no total in\n{text}")
}

/// Gateway, session and live workers.
type LiveRow = (Option<u32>, Option<String>, u64);

fn live_rows(rows: &[Row]) -> BTreeSet<LiveRow> {
    let live = rows.iter().filter(|row| row.3 > 0);
    live.map(|(gateway, _, session, live, _)| (*gateway, session.clone(), *live)).collect()
}

/// The rows of `ps`, from a snapshot of what the roster says is there: live workers, and who launched
/// these, for only then can a snapshot show it.
fn ps_rows(world: &World, roster: &Roster) -> BTreeSet<LiveRow> {
    let worker = |pid: &u32| roster.worker(Identity { pid: *pid, start_ns: u64::from(*pid) * S });
    let live = |pid: &u32| worker(pid).is_some_and(|it| it.is_live() && it.counts());
    let mut there: BTreeSet<u32> = world.keys().copied().filter(live).collect();
    for (pid, (parent, session, _)) in world.iter().rev() {
        let same = session.is_some() && world.get(parent).is_some_and(|it| it.1 == *session);
        let launched = same && worker(parent).is_some_and(|parent| !parent.counts());
        if there.contains(pid) && launched {
            there.insert(*parent);
        }
    }
    let spawns = there.into_iter().filter_map(|pid| {
        let Body::Spawn(mut spawn) = body(world, Told::Spawn(pid)) else { return None };
        spawn.inherited = true;
        (spawn.source, spawn.parent.as_mut()?.how) = (Source::Proc, ParentSource::Proc);
        Some(*spawn)
    });
    let spawns: Vec<_> = spawns.collect();
    let groups = ps::group(&Profile::hermes(), &spawns, 1_000 * S, |_| Some((1, None)));
    let gateway = |group: &ps::Group| group.gateway.as_ref().map(|gateway| gateway.pid);
    groups.iter().map(|it| (gateway(it), it.session.clone(), it.live as u64)).collect()
}

fn agree(world: &World, history: &[Told]) {
    let (roster, tally, report) = recorded(world, history);
    let rows = json_rows(&report);
    let (shown, total) = table_rows(&report);
    assert_eq!(rows, shown);
    let sums = (rows.iter().map(|row| row.3).sum(), rows.iter().map(|row| row.4).sum());
    assert_eq!(total.unwrap_or_default(), sums);
    assert_eq!((report.total.live, report.total.spawned), sums);
    assert_eq!((tally.live() as u64, tally.spawned()), sums);
    assert_eq!((roster.totals().live, roster.totals().spawned), sums);
    // A snapshot does not show what somebody was before, and in it a worker above two others of its
    // session is the worker.
    let spreads = |id: &u32| {
        let below = world.values().filter(|it| it.0 == *id && it.1.is_some());
        below.filter(|it| it.1 == world[id].1).count() > 1
    };
    if !history.iter().any(|told| matches!(told, Told::Exec(_, false)))
        && !world.keys().any(spreads)
    {
        assert_eq!(ps_rows(world, &roster), live_rows(&rows));
    }
    assert_eq!(report.series.last().unwrap().live, sums.0);
    assert!(report.total.most_live >= sums.0);
    let memory = report.workers.iter().filter(|life| life.to_ms.is_none());
    assert_eq!(memory.filter_map(|life| life.rss_kib).sum::<u64>(), report.total.rss_kib);
    assert_eq!(report.series.last().unwrap().rss_kib, report.total.rss_kib);
    let cases = |row: &Session| {
        let session = row.session.as_deref().unwrap_or("unknown");
        format!("<testcase classname=\"{}\" name=\"session {session}\"", facts::gateway(row))
    };
    let xml = junit::render(&report);
    let mut named = xml.lines().map(str::trim).filter(|line| line.starts_with("<testcase "));
    for row in &report.sessions {
        let line = named.next().unwrap();
        assert!(line.starts_with(&cases(row)), "{line}");
    }
    assert_eq!(named.count(), 2, "others, and whether it is complete");
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), expected(world, history));
}

proptest! {
    #[test]
    fn every_format_says_the_same(world in world(), history in vec(told(), 0..40)) {
        agree(&world, &possible(&history));
    }
}

/// What can have happened: who is not known yet, or has ended, does nothing. An end may be reported
/// before the birth.
fn possible(history: &[Told]) -> Vec<Told> {
    let (mut known, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let mut can = |told: &&Told| match **told {
        Told::Spawn(pid) => known.insert(pid) || !gone.contains(&pid),
        Told::Exec(pid, _) => known.contains(&pid) && !gone.contains(&pid),
        Told::Sample(pid, state) => {
            let can = known.contains(&pid) && !gone.contains(&pid);
            if can && state == 'X' {
                gone.insert(pid);
            }
            can
        }
        Told::Exit(pid) => gone.insert(pid),
        Told::Finding(..) => true,
    };
    history.iter().filter(|told| can(told)).copied().collect()
}

#[test]
fn what_they_disagreed_on_once() {
    let world: World = [
        (200, (100, Some("K"), false)),
        (201, (200, Some("K"), false)),
        (202, (100, None, false)),
        (203, (202, None, false)),
    ]
    .into();
    let [a, b] = [200, 201].map(Told::Spawn);
    for history in [
        // A launched worker that is reported before its launcher.
        vec![b, a],
        // One that executes something else and comes back.
        vec![a, Told::Exec(200, false), Told::Exec(200, true)],
        vec![a, Told::Exec(200, false), a],
        // A zombie.
        vec![a, Told::Sample(200, 'Z')],
        // Nested workers without a key.
        vec![Told::Spawn(202), Told::Spawn(203)],
        // An end that is reported before the birth.
        vec![Told::Exit(200), a],
        // What a worker became is no launcher.
        vec![a, Told::Exec(200, false), b],
    ] {
        agree(&world, &history);
    }
}
