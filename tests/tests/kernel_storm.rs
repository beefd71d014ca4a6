//! Thousands of workers that live for a moment: none is lost, and nobody else is seen.
//!
//! Runs alone: it starts processes at the full rate of the machine.

use std::collections::BTreeMap;

use slashtrace::model::Body;
use slashtrace_tests::{Program, Recording, host};

const WORKERS: usize = 2_000;
const UNRELATED: usize = 3_000;

#[test]
fn two_thousand_fast_spawns_and_none_is_lost() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let unrelated = Program::new("python3", Vec::new()).arg("-m").arg("somebody.else");
    let mut spawned: BTreeMap<u32, usize> = BTreeMap::new();
    let mut others = 0;
    for n in 0..WORKERS {
        let worker = recording.worker(&format!("storm_{}", n % 20), Vec::new());
        *spawned.entry(worker.run()).or_default() += 1;
        while others * WORKERS < (n + 1) * UNRELATED {
            unrelated.run();
            others += 1;
        }
    }
    assert_eq!(others, UNRELATED);
    let recorded = recording.stop();

    // Pids may be reused among so many: their numbers are compared, not only which they are.
    let count = |pids: &mut dyn Iterator<Item = u32>| {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        pids.for_each(|pid| *counts.entry(pid).or_default() += 1);
        counts
    };
    let workers = recorded.workers();
    assert_eq!(workers.len(), WORKERS);
    assert_eq!(count(&mut workers.iter().map(|worker| worker.pid)), spawned);
    for worker in &workers {
        let exit = recorded.exit_of(worker.identity());
        assert_eq!((exit.code, exit.signal), (Some(0), None), "{exit:?}");
        let parent = worker.parent.as_ref().expect("the kernel knows who forked it");
        assert_eq!(parent.process.pid, std::process::id());
    }

    // One spawn and one exit for each worker, and nothing about any other process.
    let processes = recorded.records.iter().filter(|record| {
        matches!(record.body, Body::Spawn(_) | Body::Exec(_) | Body::Exit(_) | Body::Signal(_))
    });
    assert_eq!(processes.count(), 2 * WORKERS);
    assert_eq!(recorded.counter("matched"), WORKERS as u64);
    assert_eq!(recorded.counter("ring-full"), 0);
    assert_eq!(recorded.counter("submitted"), 2 * WORKERS as u64);
    assert!(recorded.counter("exec-seen") >= (WORKERS + UNRELATED) as u64);
}
