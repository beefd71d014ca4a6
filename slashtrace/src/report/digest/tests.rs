use super::*;
use crate::roster::Roster;
use crate::{
    model::{
        Confidence, Exec, FindingState, Gap, GapReason, Kind, Role, Sample, Sender, Signal, Source,
    },
    report::samples::{S, at, exit, finding, gateway, sample, spawn},
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
fn an_end_says_who_sent_the_signal_everywhere() {
    let signal = Signal {
        pid: 300,
        start_ns: 300 * S,
        role: Role::Worker,
        signal: 15,
        name: "SIGTERM".to_owned(),
        si_code: 0,
        delivered: true,
        sender: Some(Sender { pid: 7, start_ns: S, comm: "bash".to_owned(), uid: 0 }),
    };
    let mut ended = exit(300);
    (ended.code, ended.signal) = (None, Some(15));
    let report = report([worker(300, "K"), (301, Body::Signal(signal)), (302, Body::Exit(ended))]);
    assert_eq!(report.workers[0].end.as_deref(), Some("SIGTERM from bash(7)"));
    let last = report.timeline.last().expect("an event");
    assert_eq!(last.text, "worker 300 ended: SIGTERM from bash(7)");
}

#[test]
fn what_was_lost_is_summed_by_reason_however_often() {
    let gap = |reason, lost| Body::Gap(Gap { reason, lost, resynced: true });
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
