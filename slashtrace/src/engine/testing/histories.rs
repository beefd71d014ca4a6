//! Whole histories, after what hermes-agent was measured to do: which pids leak, and silence
//! where nothing does.

use super::scenario::{History, K, S, pids};
use crate::model::{Confidence, FindingState, Kind, Role, Source};

/// A worker starts up: a second of reads, then it waits for its first call.
fn start_up(history: &mut History, pid: u32) {
    history.after(S).syscr(pid, 400).rss(pid, 40 << 10).after(2 * S).syscr(pid, 900).after(8 * S);
}

#[test]
fn a_healthy_session_reuses_its_worker() {
    let mut history = History::new();
    history.spawn(101, 100, K);
    start_up(&mut history, 101);
    for call in 1..50 {
        history.syscr(101, 900 + 3 * call).after(20 * S);
    }
    history.exit(101).after(600 * S);
    assert!(history.silent());
}

#[test]
fn three_resumes_of_one_key_leave_two() {
    let mut history = History::new();
    for pid in 101..=103 {
        history.spawn(pid, 100, K);
        start_up(&mut history, pid);
    }
    history.exit(102).after(30 * S);
    let finding = history.open(Kind::DuplicateWorker).expect("two stay");
    assert_eq!((pids(finding), finding.confidence), (vec![101, 103], Confidence::Proven));
    assert!(!history.ever(Kind::SpawnPerCall), "they served nothing");
    assert!(!history.ever(Kind::RespawnChurn));
}

#[test]
fn three_resumes_that_all_stay() {
    let mut history = History::new();
    for pid in 101..=103 {
        history.spawn(pid, 100, K);
        start_up(&mut history, pid);
    }
    assert_eq!(pids(history.found(Kind::DuplicateWorker)), [101, 102, 103]);
}

#[test]
fn a_race_loses_the_first_and_closing_the_session_leaves_it() {
    let mut history = History::new();
    history.spawn(101, 100, K).after(S / 20).spawn(102, 100, K).after(S);
    history.syscr(101, 900).syscr(102, 900).after(9 * S);
    assert_eq!(pids(history.found(Kind::DuplicateWorker)), [101, 102]);
    for call in 1..4 {
        history.syscr(102, 900 + call * 3).after(10 * S);
    }
    assert_eq!(pids(history.found(Kind::LostWorker)), [101]);
    history.exit(102).after(3_600 * S);
    let finding = history.open(Kind::LostWorker).expect("the leak");
    assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Strong));
    assert!(history.open(Kind::DuplicateWorker).is_none());
}

#[test]
fn a_duplicate_is_named_within_ten_seconds_of_the_second_spawn() {
    let mut history = History::new();
    history.spawn(101, 100, K).after(30 * S).spawn(102, 100, K).after(10 * S);
    assert!(history.open(Kind::DuplicateWorker).is_some());
}

#[test]
fn switching_the_model_three_times_is_silent() {
    let mut history = History::new();
    for (pid, model) in (101..).zip(["a", "b", "c", "d"]) {
        history.spawn_with(pid, 100, |spawn| spawn.model = Some(model.to_owned()));
        start_up(&mut history, pid);
        history.exit(pid).after(S / 10);
    }
    history.after(600 * S);
    assert!(history.silent());
}

#[test]
fn a_restart_with_a_second_of_overlap_is_silent() {
    let mut history = History::new();
    history.spawn(101, 100, K);
    start_up(&mut history, 101);
    history.syscr(101, 910).after(20 * S).spawn(102, 100, K).after(S).exit(101);
    start_up(&mut history, 102);
    history.after(600 * S);
    assert!(history.silent());
}

#[test]
fn closing_three_sessions_is_silent() {
    let mut history = History::new();
    for pid in 101..=103 {
        history.spawn(pid, 100, &format!("key-{pid}"));
        start_up(&mut history, pid);
    }
    history.after(20 * S).exit(101).exit(102).exit(103).after(600 * S);
    assert!(history.silent());
}

#[test]
fn a_killed_gateway_takes_idle_workers_along() {
    let mut history = History::new();
    history.spawn(101, 100, K).spawn(102, 100, "other");
    start_up(&mut history, 101);
    history.exit_gateway(100).after(2 * S).exit(101).exit(102).after(600 * S);
    assert!(history.silent());
}

#[test]
fn a_busy_worker_outlives_a_killed_gateway() {
    let mut history = History::new();
    history.spawn(101, 100, K).spawn(102, 100, "other");
    start_up(&mut history, 101);
    history.exit_gateway(100).after(S).exit(102).after(20 * S);
    let finding = history.open(Kind::GatewayOrphan).expect("101 is busy");
    assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Proven));
    history.exit(101);
    assert_eq!(history.last(Kind::GatewayOrphan).state, FindingState::Closed);
    assert_eq!(history.states(Kind::GatewayOrphan).len(), 2);
}

#[test]
fn closing_a_worker_with_mcp_servers_is_silent() {
    let mut history = History::new();
    history.spawn(101, 100, K).helper(110, 101, 101, "mcp-watchdog").child(111, 110, 101);
    history.after(60 * S).exit(101).after(20 * S);
    history.exit_as(111, Role::Descendant, Source::Kernel);
    history.exit_as(110, Role::Descendant, Source::Kernel).after(600 * S);
    assert!(history.silent());
}

#[test]
fn memory_is_bounded_over_months_of_churn() {
    let mut history = History::new();
    for n in 0..5_000_u32 {
        let pid = 1_000 + n % 500;
        history.spawn_with(pid, 100 + n % 7, |spawn| {
            spawn.start_ns = u64::from(n) * 60 * S;
            spawn.session = Some(format!("key-{}", n % 40));
        });
        history.child(50_000 + n, pid, pid).exit_as(50_000 + n, Role::Descendant, Source::Kernel);
        let id = history.driver.records.iter().rev().find_map(|record| match &record.body {
            crate::model::Body::Spawn(spawn) if spawn.role == Role::Worker => {
                Some(spawn.identity())
            }
            _ => None,
        });
        let id = id.expect("just spawned");
        history.tell(crate::model::Body::Exit(crate::model::testing::exit(id)));
        history.after(60 * S);
    }
    let sizes = history.driver.sizes();
    assert!(sizes.iter().all(|&size| size < 60), "{sizes:?}");
}
