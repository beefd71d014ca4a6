//! Records made by hand, for the tests of this folder.

use jiff::{SignedDuration, Timestamp};

use crate::{
    model::{
        Body, Confidence, Exit, FORMAT_VERSION, Finding, FindingState, FindingWorker, GatewayRef,
        Host, Kind, Limits, Memory, Parent, ParentSource, Process, Record, Role, Sample,
        SensorKind, Source, Spawn, Start,
    },
    profile::Profile,
    roster::Roster,
};

/// A second in ns.
pub(super) const S: u64 = 1_000_000_000;

/// A record of a moment, seconds after boot. Process n starts at second n.
pub(super) fn at(second: u64, body: Body) -> Record {
    let boot: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
    let time = boot.checked_add(SignedDuration::from_secs(second as i64)).unwrap();
    Record { v: FORMAT_VERSION, seq: 1, time, boottime_ns: second * S, body }
}

pub(super) fn gateway(pid: u32) -> Parent {
    Parent {
        process: Process {
            pid,
            start_ns: u64::from(pid) * S,
            comm: "python".to_owned(),
            argv0: None,
        },
        how: ParentSource::Fork,
        gone: false,
        reaper: false,
    }
}

pub(super) fn spawn(pid: u32, parent: Parent, session: &str) -> Spawn {
    Spawn {
        role: Role::Worker,
        pid,
        start_ns: u64::from(pid) * S,
        source: Source::Kernel,
        inherited: false,
        parent: Some(parent),
        ancestors: Vec::new(),
        opener: None,
        worker: None,
        comm: "python".to_owned(),
        uid: 0,
        sid: 0,
        argv: Vec::new(),
        argv_bytes: 0,
        argv_truncated: false,
        session: Some(session.to_owned()),
        model: Some("dummy-model".to_owned()),
        terminal: Some(crate::model::Terminal { instance: None, index: 3 }),
        helper: None,
    }
}

pub(super) fn exit(pid: u32) -> Exit {
    Exit {
        pid,
        start_ns: u64::from(pid) * S,
        role: Role::Worker,
        code: Some(0),
        signal: None,
        reads: None,
        source: Source::Kernel,
    }
}

pub(super) fn sample(pid: u32, rss_kib: u64, reads: Option<u64>) -> Sample {
    Sample {
        pid,
        start_ns: u64::from(pid) * S,
        state: 'S',
        rss_kib: Some(rss_kib),
        pss_kib: None,
        threads: Some(1),
        syscr: None,
        reads,
        stdin: None,
    }
}

/// A finding about workers of session K under gateway 100.
pub(super) fn finding(kind: Kind, confidence: Confidence, workers: &[u32]) -> Finding {
    let named = |&pid: &u32| FindingWorker {
        pid,
        start_ns: u64::from(pid) * S,
        spawned_at: Timestamp::UNIX_EPOCH,
        rss_kib: None,
        reads: None,
        unused: false,
    };
    Finding {
        id: format!("{kind}/{workers:?}"),
        kind,
        state: FindingState::Opened,
        confidence,
        gateway: Some(GatewayRef {
            pid: 100,
            start_ns: 100 * S,
            comm: "python".to_owned(),
            argv0: None,
            how: ParentSource::Fork,
        }),
        session: Some("K".to_owned()),
        workers: workers.iter().map(named).collect(),
        processes: Vec::new(),
        terminal: None,
        forecast: None,
        because: vec![1],
        text: format!("{kind} was seen"),
    }
}

pub(super) fn start(calls_counted: bool) -> Start {
    let memory = Memory { total_kib: 1, available_kib: 1, swap_total_kib: 0, swap_free_kib: 0 };
    Start {
        version: "0.1.0".to_owned(),
        host: Host {
            distribution: None,
            kernel: "6.18.0".to_owned(),
            arch: "x86_64".to_owned(),
            cpus: 2,
            memory,
        },
        sensor: SensorKind::Ebpf,
        capabilities: Vec::new(),
        calls_counted,
        profile: Profile::hermes(),
        reaping: None,
        limits: Limits {
            argv_searched_bytes: 4096,
            ring_bytes: 1 << 20,
            tracked_max: 1024,
            sample_interval_ms: 2000,
        },
    }
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
