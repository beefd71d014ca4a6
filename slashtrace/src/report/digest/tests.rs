use super::*;
use crate::{
    model::{
        Confidence, Exec, FindingState, Gap, GapReason, Kind, Role, Sample, Sender, Signal, Source,
        Spawn,
    },
    report::samples::{S, at, exit, finding, gateway, sample, spawn},
    roster::{Roster, Unjudged},
};

/// The report of these records, each with the second it is of.
fn report(bodies: impl IntoIterator<Item = (u64, Body)>) -> Report {
    let (mut digest, mut roster) = (Digest::new(), Roster::blank());
    for (seq, (second, body)) in (1..).zip(bodies) {
        let record = Record { seq, ..at(second, body) };
        roster.observe(&record);
        digest.record(&record, &roster).expect("a digest takes every record");
    }
    digest.report()
}

fn worker(pid: u32, session: &str) -> (u64, Body) {
    (u64::from(pid), Body::Spawn(Box::new(spawn(pid, gateway(100), session))))
}

fn workers_of(tree: &Tree) -> Vec<u32> {
    let workers = tree.nodes.iter().filter(|node| node.session.is_some());
    workers.map(|node| node.id.pid).collect()
}

#[test]
fn the_tree_of_the_worst_moment_has_the_worker_whose_end_ends_it() {
    let up = || (300..325).map(|pid| worker(pid, "K"));
    let all: Vec<u32> = (300..325).collect();
    let exec = Exec {
        pid: 324,
        start_ns: 324 * S,
        role: Role::Worker,
        comm: "sleep".to_owned(),
        argv0: None,
        is_worker: false,
        helper: None,
        source: Source::Kernel,
    };
    let ends = [
        Body::Exit(exit(324)),
        Body::Exec(exec),
        Body::Sample(Sample { state: 'X', ..sample(324, 0, None) }),
    ];
    for end in ends {
        let one_more = (327, Body::Spawn(Box::new(spawn(326, gateway(100), "K"))));
        let report = report(up().chain([(326, end), one_more]));
        assert_eq!(workers_of(&report.tree), all);
        assert_eq!(report.total.most_live, 25);
    }
}

#[test]
fn a_worker_and_its_launcher_have_one_memory() {
    let both = Sample { launchers_rss_kib: Some(5 << 10), ..sample(301, 30 << 10, None) };
    let launched = Spawn { session: Some("K".to_owned()), ..spawn(301, gateway(300), "K") };
    let report = report([
        worker(300, "K"),
        (301, Body::Spawn(Box::new(launched))),
        (302, Body::Sample(sample(300, 5 << 10, None))),
        (303, Body::Sample(both)),
    ]);
    assert_eq!((report.total.live, report.total.rss_kib), (1, 35 << 10));
}

#[test]
fn an_end_says_who_sent_the_signal_everywhere() {
    let signal = Signal {
        pid: 300,
        start_ns: 300 * S,
        role: Role::Worker,
        signal: 15,
        name: "SIGTERM".to_owned(),
        si_code: 0,
        parent_ended: false,
        count: None,
        first_ns: None,
        last_ns: None,
        delivered: true,
        sender: Some(Sender { pid: 7, start_ns: S, comm: "bash".to_owned(), uid: 0 }),
    };
    let mut ended = exit(300);
    (ended.code, ended.signal) = (None, Some(15));
    let history = |signal: Signal| {
        [worker(300, "K"), (301, Body::Signal(signal)), (302, Body::Exit(ended.clone()))]
    };
    let sent = report(history(signal.clone()));
    assert_eq!(sent.workers[0].end.as_deref(), Some("SIGTERM from bash(7)"));
    let last = sent.timeline.last().expect("an event");
    assert_eq!(last.text, "worker 300 ended: SIGTERM from bash(7)");
    let asked_for = report(history(Signal { parent_ended: true, ..signal }));
    assert_eq!(
        asked_for.workers[0].end.as_deref(),
        Some("SIGTERM, which it had asked for at the end of its parent bash(7) (PR_SET_PDEATHSIG)")
    );
}

#[test]
fn what_was_lost_is_summed_by_reason_however_often() {
    let gap = |reason, lost| Body::Gap(Gap { reason, lost, resynced: true, uid: None });
    let many = (0..3_000).map(|n| (300 + n, gap(GapReason::RingFull, 2)));
    let report = report(many.chain([(4_000, gap(GapReason::MapFull, 1))]));
    assert_eq!(report.recording.lost, 6_001);
    assert_eq!(report.not_seen[..2], ["1 event lost: map-full", "6000 events lost: ring-full"]);
}

#[test]
fn a_worker_is_stale_as_long_as_one_open_finding_shows_it() {
    let found = |kind, state| {
        let mut found = finding(kind, Confidence::Strong, &[300, 301]);
        found.workers.iter_mut().for_each(|worker| worker.unused = true);
        found.state = state;
        Body::Finding(Box::new(found))
    };
    let workers = || [worker(300, "K"), worker(301, "K"), worker(302, "L")];
    let opened = [
        (310, found(Kind::LostWorker, FindingState::Opened)),
        (311, found(Kind::Unreachable, FindingState::Opened)),
        (312, found(Kind::LostWorker, FindingState::Closed)),
    ];
    let open = report(workers().into_iter().chain(opened.clone()));
    assert_eq!((open.total.stale, open.total.most_stale), (2, 2));
    assert_eq!(open.sessions.iter().map(|row| row.stale).collect::<Vec<_>>(), [2, 0]);
    let closed = [(313, found(Kind::Unreachable, FindingState::Closed))];
    let closed = report(workers().into_iter().chain(opened).chain(closed));
    assert_eq!((closed.total.stale, closed.total.most_stale), (0, 2));
}

/// Spawned, live and exited workers of each row, with its gateway's pid.
fn rows(report: &Report) -> Vec<(u32, u64, u64, u64)> {
    let of = |row: &Session| {
        let gateway = row.gateway.as_ref().map_or(0, |gateway| gateway.id.pid);
        (gateway, row.spawned, row.live, row.exited)
    };
    report.sessions.iter().map(of).collect()
}

fn below(pid: u32, parent: u32, session: Option<&str>) -> (u64, Body) {
    let mut spawn = spawn(pid, gateway(parent), "K");
    spawn.session = session.map(str::to_owned);
    (u64::from(pid), Body::Spawn(Box::new(spawn)))
}

fn exec(pid: u32, is_worker: bool) -> Body {
    Body::Exec(Exec {
        pid,
        start_ns: u64::from(pid) * S,
        role: Role::Worker,
        comm: "sh".to_owned(),
        argv0: None,
        is_worker,
        helper: None,
        source: Source::Kernel,
    })
}

#[test]
fn a_launcher_is_not_counted_in_whichever_order_they_are_reported() {
    let chain =
        || [below(300, 100, Some("K")), below(301, 300, Some("K")), below(302, 301, Some("K"))];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let all = chain();
        let spawns = order.map(|at: usize| all[at].clone());
        let live = report(spawns.clone());
        assert_eq!(rows(&live), [(100, 1, 1, 0)], "{order:?}");
        // Without the middle one the outermost and the innermost look like two.
        let most = if order[2] == 1 { 2 } else { 1 };
        assert_eq!((live.total.spawned, live.total.most_live), (1, most), "{order:?}");
        assert_eq!(live.workers.iter().map(|life| life.id.pid).collect::<Vec<_>>(), [302]);
        // Reported again, say by a resync: nothing new.
        let again = report(spawns.clone().into_iter().chain(chain()));
        assert_eq!(rows(&again), [(100, 1, 1, 0)], "{order:?}");
        let ends = [301, 300, 302].map(|pid| (400, Body::Exit(exit(pid))));
        let ended = report(spawns.into_iter().chain(ends));
        assert_eq!(rows(&ended), [(100, 1, 0, 1)], "{order:?}");
    }
}

#[test]
fn what_was_found_moves_with_the_row() {
    let mut found = finding(Kind::LostWorker, Confidence::Strong, &[301]);
    found.workers[0].unused = true;
    if let Some(gateway) = &mut found.gateway {
        (gateway.pid, gateway.start_ns) = (300, 300 * S);
    }
    let report = report([
        below(301, 300, Some("K")),
        (302, Body::Finding(Box::new(found))),
        below(300, 100, Some("K")),
    ]);
    assert_eq!(rows(&report), [(100, 1, 1, 0)]);
    let row = &report.sessions[0];
    assert_eq!((row.stale, row.most_stale, &row.findings[..]), (1, 1, &[Kind::LostWorker][..]));
}

#[test]
fn a_launcher_may_end_before_what_it_launched_is_reported() {
    let launcher = below(300, 100, Some("K"));
    let over = (303, Body::Exit(exit(300)));
    let report = report([launcher, below(301, 300, Some("K")), over, below(302, 300, Some("K"))]);
    assert_eq!(rows(&report), [(100, 2, 2, 0)]);
}

#[test]
fn workers_without_a_key_launch_nobody() {
    let report = report([below(300, 100, None), below(301, 300, None)]);
    assert_eq!(rows(&report), [(100, 1, 1, 0), (300, 1, 1, 0)]);
}

#[test]
fn a_worker_that_becomes_another_program_may_come_back() {
    let began = [worker(300, "K"), (301, exec(300, false))];
    let sampled = (301, Body::Sample(sample(300, 900, None)));
    let away = report(began.clone().into_iter().chain([sampled]));
    assert_eq!(rows(&away), [(100, 1, 0, 1)]);
    assert_eq!(away.workers[0].rss_kib, None, "the memory of another program");
    assert_eq!(away.workers[0].end.as_deref(), Some("became sh, no worker any more"));
    let respawned = (302, worker(300, "K").1);
    for back in [(302, exec(300, true)), respawned] {
        let report = report(began.clone().into_iter().chain([back]));
        assert_eq!(rows(&report), [(100, 1, 1, 0)]);
        let life = &report.workers[0];
        assert_eq!((life.to_ms, life.end.as_deref(), life.from_ms), (None, None, 0));
    }
    let over =
        report(began.into_iter().chain([(302, Body::Exit(exit(300))), (303, exec(300, true))]));
    assert_eq!(rows(&over), [(100, 1, 0, 1)]);
}

#[test]
fn a_zombie_is_not_live() {
    let state = |state, threads| {
        let threads = Some(threads);
        Body::Sample(Sample { state, threads, ..sample(300, 5_000, None) })
    };
    let zombie = || [worker(300, "K"), (301, state('S', 1)), (302, state('Z', 1))];
    let dead = report(zombie());
    assert_eq!(rows(&dead), [(100, 1, 0, 1)]);
    assert_eq!((dead.total.rss_kib, dead.workers[0].to_ms), (0, Some(2_000)));
    // Its parent collects it, and only then it is known how it ended.
    let reaped = report(zombie().into_iter().chain([(303, Body::Exit(exit(300)))]));
    assert_eq!(rows(&reaped), [(100, 1, 0, 1)]);
    assert_eq!(reaped.workers[0].end.as_deref(), Some("code 0"));
    // Its first thread alone ended.
    let report = report([worker(300, "K"), (301, state('Z', 3))]);
    assert_eq!(rows(&report), [(100, 1, 1, 0)]);
}

#[test]
fn an_end_is_counted_once_and_may_be_reported_first() {
    let (birth, end) = (worker(300, "K"), (301, Body::Exit(exit(300))));
    let both = || vec![birth.clone(), end.clone()];
    let twice = [both(), both()].concat();
    let reversed = vec![end.clone(), birth.clone()];
    for records in [both(), twice, reversed] {
        let report = report(records);
        assert_eq!(rows(&report), [(100, 1, 0, 1)]);
        assert_eq!(report.workers[0].end.as_deref(), Some("code 0"));
    }
}

#[test]
fn no_leak_was_seen_only_in_those_that_could_be_judged() {
    let keyless = |pid: u32| {
        let spawn = Spawn { session: None, ..spawn(pid, gateway(100), "K") };
        (u64::from(pid), Body::Spawn(Box::new(spawn)))
    };
    let stop = Stop { reason: "duration".to_owned(), counters: BTreeMap::new(), complete: true };
    let known = || [("A", 300), ("B", 301), ("C", 302)].map(|(key, pid)| worker(pid, key));
    let all = report(known().into_iter().chain([(400, Body::Stop(stop.clone()))]));
    assert!(all.verdict.headline.starts_with("No leak was seen: 3 workers"), "{:?}", all.verdict);
    assert_eq!((all.verdict.level, all.not_judged), (Level::Healthy, 0));

    let keyless = [keyless(303), keyless(304)];
    let some = report(known().into_iter().chain(keyless).chain([(400, Body::Stop(stop.clone()))]));
    assert_eq!(
        some.verdict.headline,
        "No leak was seen in 3 of 5 workers; 2 could not be judged: no session key (2)."
    );
    assert_eq!(
        (some.verdict.level, some.not_judged, some.judged_in_part),
        (Level::NotJudged, 2, 0)
    );
    assert!(some.not_seen.contains(&"whether 2 workers leaked: no session key (2)".to_owned()));
    let row = some.sessions.iter().find(|row| row.session.is_none()).unwrap();
    assert_eq!(row.unjudged, [(Unjudged::NoSession, 2)].into());
    let life = some.workers.iter().find(|life| life.id.pid == 303).unwrap();
    assert_eq!(life.unjudged, Some(Unjudged::NoSession));
    let json = serde_json::to_value(&some).unwrap();
    assert_eq!(json["verdict"]["level"], "not-judged");
    assert_eq!(json["unjudged"]["no-session"], 2);

    let mut found = finding(Kind::LostWorker, Confidence::Strong, &[300]);
    found.workers[0].unused = true;
    let found = (350, Body::Finding(Box::new(found)));
    let keyless =
        (303, Body::Spawn(Box::new(Spawn { session: None, ..spawn(303, gateway(100), "K") })));
    let leak = report([worker(300, "K"), keyless, found, (400, Body::Stop(stop.clone()))]);
    let headline = &leak.verdict.headline;
    let last = "lost-worker (strong). Of 2 workers, 1 could not be judged: no session key (1).";
    assert!(leak.verdict.level == Level::Leak && headline.ends_with(last), "{headline}");

    let before = Spawn { inherited: true, ..spawn(300, gateway(100), "K") };
    let before = (300, Body::Spawn(Box::new(before)));
    let in_part = report([before, (400, Body::Stop(stop))]);
    assert_eq!(
        in_part.verdict.headline,
        "No leak was seen since the recording began, of 1 worker; 1 could be judged only in part: \
         there before the recording (1)."
    );
    assert_eq!((in_part.verdict.level, in_part.judged_in_part), (Level::Healthy, 1));
}
