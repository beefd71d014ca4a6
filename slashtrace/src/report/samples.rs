//! Records made by hand, for the tests of this folder.

use crate::{
    model::{
        Body, Confidence, Exit, Finding, Identity, Kind, Parent, ParentSource, Record, Sample,
        Spawn, Start, Terminal, testing,
    },
    roster::Roster,
};

/// A second in ns.
pub(super) const S: u64 = 1_000_000_000;

/// A record of a moment, seconds after boot. Process n starts at second n.
pub(super) fn at(second: u64, body: Body) -> Record {
    let time = testing::time_since("2026-11-22T12:00:00Z", second * S);
    testing::record(1, time, second * S, body)
}

const fn id(pid: u32) -> Identity {
    testing::id(pid, pid as u64 * S)
}

pub(super) fn gateway(pid: u32) -> Parent {
    testing::parent(id(pid), ParentSource::Fork)
}

pub(super) fn spawn(pid: u32, parent: Parent, session: &str) -> Spawn {
    Spawn {
        parent: Some(parent),
        model: Some("dummy-model".to_owned()),
        terminal: Some(Terminal { instance: None, index: 3 }),
        ..testing::spawn(id(pid)).session(session)
    }
}

pub(super) fn exit(pid: u32) -> Exit {
    testing::exit(id(pid))
}

pub(super) fn sample(pid: u32, rss_kib: u64, reads: Option<u64>) -> Sample {
    Sample { rss_kib: Some(rss_kib), threads: Some(1), reads, ..testing::sample(id(pid)) }
}

/// A finding about workers of session K under gateway 100.
pub(super) fn finding(kind: Kind, confidence: Confidence, workers: &[u32]) -> Finding {
    Finding {
        id: format!("{kind}/{workers:?}"),
        confidence,
        gateway: Some(testing::gateway_ref(id(100))),
        session: Some("K".to_owned()),
        ..testing::finding(kind, workers.iter().copied().map(id))
    }
}

pub(super) fn start(calls_counted: bool) -> Start {
    Start { calls_counted, ..testing::start() }
}

/// A recording of a healthy session and of as many leaked workers, ten a session; the names in it
/// are hostile.
pub(super) fn digest(leaked: u32) -> super::digest::Digest {
    use super::digest::Digest;
    use crate::sink::Sink as _;
    let mut bodies = vec![(300, Body::Start(Box::new(start(true))))];
    let worker = |pid: u32, session: &str| Body::Spawn(Box::new(spawn(pid, gateway(100), session)));
    bodies.push((301, worker(301, "<healthy> | @bob `x`")));
    bodies.push((302, Body::Sample(sample(301, 50_000, Some(7)))));
    for n in 0..leaked {
        let (pid, second) = (1_000 + n, 1_000 + u64::from(n));
        let session = format!("K{}", n / 10);
        bodies.push((second, worker(pid, &session)));
        bodies.push((second, Body::Sample(sample(pid, 95_000, Some(0)))));
        if n % 10 == 9 || n + 1 == leaked {
            let first = 1_000 + n / 10 * 10;
            let pids: Vec<u32> = (first..=pid).collect();
            let mut found = finding(Kind::LostWorker, Confidence::Strong, &pids);
            found.session = Some(session);
            found.workers.iter_mut().for_each(|worker| worker.unused = true);
            bodies.push((second + 1, Body::Finding(Box::new(found))));
        }
    }
    let last = 1_002 + u64::from(leaked);
    bodies.push((last, Body::Exit(exit(301))));
    let stop = crate::model::Stop {
        reason: "duration".to_owned(),
        counters: std::collections::BTreeMap::new(),
        complete: true,
    };
    bodies.push((last + 1, Body::Stop(stop)));
    let (mut digest, mut roster) = (Digest::new(), Roster::blank());
    for (seq, (second, body)) in (1..).zip(bodies) {
        let record = Record { seq, ..at(second, body) };
        roster.observe(&record);
        digest.record(&record, &roster).expect("a digest takes every record");
    }
    digest
}
