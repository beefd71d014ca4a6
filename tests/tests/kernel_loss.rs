//! A ring buffer that overflows: the loss is counted and told, and what lives is found again.

use std::time::Duration;

use slashtrace::model::{Body, GapReason};
use slashtrace_tests::{Recording, Step, host};

/// More than the ring buffer (1 MiB) holds: a spawn and an exit take at least 300 bytes.
const WORKERS: u64 = 4_000;

#[test]
fn what_the_ring_buffer_could_not_hold_is_told_and_the_living_are_found() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let mut seen_before = recording.worker("seen_before", vec![Step::Serve]).start();
    recording.wait_for("the first worker", Duration::from_secs(30), |records| {
        records.iter().any(|record| matches!(&record.body, Body::Spawn(_)))
    });

    recording.freeze(true);
    for _ in 0..WORKERS {
        recording.worker("storm", Vec::new()).run();
    }
    let spawned_in_the_dark = recording.worker("in_the_dark", vec![Step::Serve]).start();
    let ended_in_the_dark = seen_before.pid();
    seen_before.wait();
    recording.freeze(false);

    recording.wait_for("the resync", Duration::from_secs(30), |records| {
        let found = records.iter().any(|record| {
            matches!(&record.body, Body::Spawn(spawn) if spawn.pid == spawned_in_the_dark.pid())
        });
        let gone = records.iter().any(
            |record| matches!(&record.body, Body::Exit(exit) if exit.pid == ended_in_the_dark),
        );
        found && gone
    });
    let recorded = recording.stop_incomplete();

    let lost: u64 = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Gap(gap) if gap.reason == GapReason::RingFull && gap.resynced => Some(gap.lost),
            _ => None,
        })
        .sum();
    // What was told and what was lost add up to what the kernel saw: nothing is missing silently.
    assert_eq!(lost, recorded.counter("ring-full"));
    assert!(lost > 0);
    assert_eq!(recorded.counter("submitted"), recorded.counter("read"));
    assert_eq!(recorded.counter("matched"), WORKERS + 2);

    // Who forked it is not known any more, and it is not said.
    let found = recorded.worker("in_the_dark");
    assert!(found.inherited, "{found:?}");
    let exits = recorded.exits_of(recorded.worker("seen_before").identity());
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!((exits[0].code, exits[0].signal), (None, None));
}
