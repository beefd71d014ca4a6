//! `--count-calls`: the number of calls is exact, and absent where nobody counted.
//!
//! Runs in guests of `cargo xtask vm`.

use std::time::Duration;

use slashtrace::model::{Body, Confidence, Kind};
use slashtrace_tests::{Recording, Setup, Step, host, recorded::opened};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn each_call_is_counted_and_nothing_else() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Setup::ebpf().flag("--count-calls").flag("--sample-interval=200ms").start();
    let calls = [("none", 0_u64), ("one", 1), ("many", 57)];
    let mut workers = Vec::new();
    for (session, calls) in calls {
        // Reads of files and of EOF are no calls: starting and ending the program makes some.
        let mut worker = recording.worker(session, vec![Step::Threads(2), Step::Serve]).start();
        (0..calls).for_each(|_| worker.call());
        workers.push(worker);
    }
    recording.wait_for("the count while it lives", PATIENCE, |records| {
        let sampled = |record: &slashtrace::model::Record| matches!(&record.body, Body::Sample(s) if s.reads == Some(57));
        records.iter().any(sampled)
    });
    for worker in &mut workers {
        assert!(worker.wait().success());
    }
    let recorded = recording.stop();
    for (session, calls) in calls {
        let exit = recorded.exit_of(recorded.worker(session).identity());
        assert_eq!(exit.reads, Some(calls), "{session}");
    }
}

#[test]
fn without_the_flag_nothing_is_said_of_calls() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let mut worker = recording.worker("uncounted", vec![Step::Serve]).start();
    (0..3).for_each(|_| worker.call());
    worker.wait();
    let recorded = recording.stop();
    assert_eq!(recorded.exit_of(recorded.worker("uncounted").identity()).reads, None);
    let Body::Start(start) = &recorded.records[0].body else { panic!("no start") };
    assert!(!start.calls_counted);
}

#[test]
fn a_worker_for_each_call_is_proven_by_counting() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Setup::ebpf().flag("--count-calls").flag("--sample-interval=200ms").start();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut worker = recording.worker("per_call", vec![Step::Serve]).start();
        worker.call();
        workers.push(worker);
    }
    recording.wait_for("spawn-per-call", PATIENCE, |records| {
        !opened(records, Kind::SpawnPerCall).is_empty()
    });
    drop(workers);
    let recorded = recording.stop();
    let findings = recorded.opened(Kind::SpawnPerCall);
    assert_eq!(findings[0].confidence, Confidence::Proven);
    assert!(findings[0].workers.iter().all(|worker| worker.reads == Some(1)), "{findings:?}");
}
