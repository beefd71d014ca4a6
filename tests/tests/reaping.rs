//! `slashtrace run --policy`: workers that nobody can use are ended, and nobody else, with real
//! processes and real pidfds. Each recording knows only the workers of its own test.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{fs, process::Command, thread, time::Duration};

use slashtrace::model::{Body, Identity, Kind, Outcome, Phase, Record, Step as ReaperStep};
use slashtrace_tests::{
    Program, Setup, Step, host,
    reaping::{LONG, PATIENCE, actions, gone_gateway, is_there, of, reaper},
    recorded::{finding, workers},
};

#[test]
fn an_orphan_is_ended_and_a_worker_in_use_is_not() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("enforce").start();
    let tracer = recording.pid();
    let used = recording.worker("used", vec![Step::Serve]);
    let mut gateway = Program::new("gateway", vec![Step::SpawnWithPipe(used), Step::Reap]).start();
    gone_gateway([recording.worker("orphan", vec![Step::Sleep(LONG)])]);
    recording.wait_for("the result", PATIENCE, |records| {
        actions(records).iter().any(|action| action.step == ReaperStep::Result)
    });
    thread::sleep(Duration::from_secs(1));
    let used = workers(&recording.so_far())
        .iter()
        .find(|worker| worker.session.as_deref() == Some("used"))
        .map(|worker| worker.identity());
    let used = used.expect("it was spawned");
    assert!(is_there(used.pid), "the worker in use lives");
    let recorded = recording.stop();
    gateway.wait();

    let orphan = recorded.worker("orphan").identity();
    assert_eq!(
        of(&recorded.records, orphan),
        [
            (ReaperStep::Terminate, Phase::Before, None),
            (ReaperStep::Terminate, Phase::After, Some(Outcome::Sent)),
            (ReaperStep::Result, Phase::After, Some(Outcome::Exited)),
        ]
    );
    assert_eq!(recorded.exit_of(orphan).signal, Some(15));
    let signals = recorded.signals_of(orphan);
    let senders: Vec<_> =
        signals.iter().map(|signal| signal.sender.as_ref().map(|s| s.pid)).collect();
    assert_eq!(senders, [Some(tracer)], "the kernel saw one signal, and who sent it");
    assert!(of(&recorded.records, used).is_empty(), "{recorded}");
    // Each action stands behind the finding that justifies it.
    for record in &recorded.records {
        if let Body::Action(action) = &record.body {
            let because = action.because.first().expect("there is a reason");
            let found = &recorded.records[*because as usize - 1];
            assert_eq!(finding(found).map(|found| found.kind), Some(Kind::GatewayOrphan));
            assert!(found.seq < record.seq);
        }
    }
}

#[test]
fn an_orphan_whose_stdin_somebody_holds_is_in_use() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("enforce").start();
    // The worker has its gateway's stdin, and this test holds the other end: as a gateway that
    // forked twice lives on in its child.
    let worker = recording.worker("held", vec![Step::Serve]);
    let steps = vec![Step::Spawn(worker), Step::Sleep(3_000)];
    let mut gateway = Program::new("gateway", steps).start();
    let orphan = |record: &Record| match &record.body {
        Body::Finding(finding) if finding.kind == Kind::GatewayOrphan => Some(finding.clone()),
        _ => None,
    };
    recording.wait_for("gateway-orphan", PATIENCE, |records| {
        records.iter().any(|record| orphan(record).is_some())
    });
    thread::sleep(Duration::from_secs(3));
    let held = workers(&recording.so_far())[0].identity();
    assert!(is_there(held.pid));
    let recorded = recording.stop();
    // That it outlived its gateway is said; that nobody uses it is not.
    let found: Vec<_> = recorded.records.iter().filter_map(orphan).collect();
    assert!(found.iter().flat_map(|it| &it.workers).all(|it| !it.unused), "{recorded}");
    assert!(actions(&recorded.records).is_empty(), "{recorded}");
    assert!(recorded.signals_of(held).is_empty(), "{recorded}");
    gateway.wait();
}

#[test]
fn dry_run_sends_nothing() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("dry-run").start();
    gone_gateway([recording.worker("orphan", vec![Step::Sleep(LONG)])]);
    recording.wait_for("what would be done", PATIENCE, |records| !actions(records).is_empty());
    thread::sleep(Duration::from_secs(2));
    let orphan = workers(&recording.so_far())[0].identity();
    assert!(is_there(orphan.pid));
    let recorded = recording.stop();
    // Once for each finding that shows it.
    let said = of(&recorded.records, orphan);
    let would_end = (ReaperStep::WouldEnd, Phase::After, None);
    assert!((1..=2).contains(&said.len()) && said.iter().all(|it| *it == would_end), "{said:?}");
    assert!(recorded.signals_of(orphan).is_empty(), "{recorded}");
}

#[test]
fn a_worker_that_ignores_sigterm_or_is_stopped_is_killed_after_the_grace() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("enforce").flag("--term-grace=1s").start();
    gone_gateway([
        recording.worker("ignores", vec![Step::IgnoreTerm, Step::Sleep(LONG)]),
        recording.worker("stopped", vec![Step::Stop, Step::Sleep(LONG)]),
    ]);
    recording.wait_for("both results", PATIENCE, |records| {
        let results =
            actions(records).into_iter().filter(|action| action.step == ReaperStep::Result);
        results.count() == 2
    });
    let recorded = recording.stop();
    for session in ["ignores", "stopped"] {
        let worker = recorded.worker(session).identity();
        assert_eq!(
            of(&recorded.records, worker),
            [
                (ReaperStep::Terminate, Phase::Before, None),
                (ReaperStep::Terminate, Phase::After, Some(Outcome::Sent)),
                (ReaperStep::Kill, Phase::Before, None),
                (ReaperStep::Kill, Phase::After, Some(Outcome::Sent)),
                (ReaperStep::Result, Phase::After, Some(Outcome::Exited)),
            ]
        );
        assert_eq!(recorded.exit_of(worker).signal, Some(9));
    }
}

#[test]
fn a_storm_opens_the_breaker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    const STORM: usize = 500;
    // Who holds their stdin is searched for bit by bit: as many as may be ended within a minute may be
    // before it is known how many there are.
    const BUDGET: usize = 10;
    let recording = reaper("enforce").start();
    let worker = |n: usize| recording.worker(&format!("storm-{n}"), vec![Step::Sleep(LONG)]);
    // The orders of one gateway must fit into one environment variable.
    thread::scope(|scope| {
        for first in (0..STORM).step_by(50) {
            scope.spawn(move || gone_gateway((first..first + 50).map(worker)));
        }
    });
    recording.wait_for("reaper-stopped", PATIENCE, |records| {
        records.iter().filter_map(finding).any(|finding| finding.kind == Kind::ReaperStopped)
    });
    thread::sleep(Duration::from_secs(2));
    let records = recording.so_far();
    let all: Vec<Identity> = workers(&records).iter().map(|worker| worker.identity()).collect();
    assert_eq!(all.len(), STORM);
    let live = all.iter().filter(|worker| is_there(worker.pid)).count();
    let recorded = recording.stop();
    let stops = actions(&recorded.records).into_iter();
    assert_eq!(stops.filter(|it| it.step == ReaperStep::Stop).count(), 1, "{recorded}");
    let signalled = all.iter().filter(|worker| !recorded.signals_of(**worker).is_empty()).count();
    assert!(signalled <= BUDGET && live >= STORM - BUDGET, "{signalled}, {live}: {recorded}");
}

#[test]
fn a_protected_worker_and_another_gateways_are_let_alone() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = reaper("enforce").flag("--protect-arg=keep-me").flag("--gateway=1");
    let recording = setup.start();
    gone_gateway([recording.worker("elsewhere", vec![Step::Sleep(LONG)])]);
    recording.wait_for("the finding", PATIENCE, |records| {
        records.iter().filter_map(finding).any(|finding| finding.kind == Kind::GatewayOrphan)
    });
    thread::sleep(Duration::from_secs(2));
    let elsewhere = workers(&recording.so_far())[0].identity();
    assert!(is_there(elsewhere.pid));
    let recorded = recording.stop();
    assert!(actions(&recorded.records).is_empty(), "out of scope: {recorded}");

    let recording = reaper("enforce").flag("--protect-arg=keep-me").start();
    let worker = recording.worker("kept", vec![Step::Sleep(LONG)]).arg("keep-me");
    gone_gateway([worker]);
    recording.wait_for("a refusal", PATIENCE, |records| !actions(records).is_empty());
    let kept = workers(&recording.so_far())[0].identity();
    assert!(is_there(kept.pid));
    let recorded = recording.stop();
    let refused = actions(&recorded.records)[0];
    assert_eq!((refused.step, refused.outcome), (ReaperStep::Refuse, Some(Outcome::Refused)));
    assert!(refused.detail.contains("keep-me"), "{}", refused.detail);
}

#[test]
fn killed_between_sigterm_and_sigkill_it_judges_anew_and_finishes() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let first = reaper("enforce").flag("--term-grace=30s").start();
    let token = first.token().to_owned();
    let worker = first.worker("stubborn", vec![Step::IgnoreTerm, Step::Sleep(LONG)]);
    Program::new("gateway", vec![Step::SpawnWithPipe(worker), Step::Sleep(500)]).run();
    first.wait_for("SIGTERM", PATIENCE, |records| {
        actions(records).iter().any(|action| action.outcome == Some(Outcome::Sent))
    });
    let records = first.kill();
    let stubborn = workers(&records)[0].identity();
    assert!(is_there(stubborn.pid));

    // Who forked it cannot be known any more; that nobody can talk to it, can.
    let second = reaper("enforce").watching_for(&token).flag("--term-grace=1s").start();
    second.wait_for("the result", PATIENCE, |records| {
        actions(records).iter().any(|action| action.step == ReaperStep::Result)
    });
    let recorded = second.stop();
    let told = actions(&recorded.records);
    assert_eq!(told[0].kind, Some(Kind::Unreachable), "{told:?}");
    let sent = told.iter().filter(|action| action.outcome == Some(Outcome::Sent)).count();
    assert_eq!(sent, 2, "SIGTERM and SIGKILL, once each: {told:?}");
    assert!(!is_there(stubborn.pid));
}

#[test]
fn a_gateway_that_executes_itself_again_is_still_the_gateway() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("enforce").start();
    let worker = recording.worker("kept", vec![Step::Serve]);
    let again = Program::new("gateway", vec![Step::Sleep(6_000)]);
    let steps = vec![Step::Spawn(worker), Step::Sleep(300), Step::Exec(again)];
    let mut gateway = Program::new("gateway", steps).start();
    // Longer than the orphan grace.
    thread::sleep(Duration::from_secs(5));
    let kept = workers(&recording.so_far())[0].identity();
    assert!(is_there(kept.pid));
    let recorded = recording.stop();
    assert!(actions(&recorded.records).is_empty(), "{recorded}");
    assert!(recorded.findings().is_empty(), "{recorded}");
    gateway.wait();
}

#[test]
fn reap_lists_and_with_yes_ends_exactly_what_it_listed() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = Setup::ebpf();
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.toml");
    fs::write(&profile, setup.own_profile()).expect("the profile can be written");
    // Left behind by a gateway that is gone, and in use: both were there before.
    let orphan = setup.worker("orphan", vec![Step::IgnoreTerm, Step::Sleep(LONG)]);
    Program::new("gateway", vec![Step::SpawnWithPipe(orphan), Step::Sleep(300)]).run();
    let used = setup.worker("used", vec![Step::Serve]);
    let gateway = Program::new("gateway", vec![Step::SpawnWithPipe(used), Step::Reap]).start();

    let reap = |more: &[&str]| -> Vec<serde_json::Value> {
        let output = Command::new(host::slashtrace())
            .args(["reap", "--json", "--watch=15s", "--older-than=1s", "--profile"])
            .arg(&profile)
            .args(more)
            .output()
            .expect("slashtrace runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    };
    let listed = reap(&[]);
    let pid = listed[0]["pid"].as_u64().expect("a pid") as u32;
    assert_eq!((listed.len(), &listed[0]["session"]), (1, &"orphan".into()), "{listed:?}");
    assert_eq!(
        (&listed[0]["fate"], &listed[0]["kind"]),
        (&"would-end".into(), &"unreachable".into())
    );
    assert!(is_there(pid), "it was only listed");

    assert!(reap(&["--session=used", "--yes"]).is_empty(), "nothing justifies that");
    let ended = reap(&["--yes"]);
    assert_eq!((ended.len(), &ended[0]["fate"]), (1, &"ended".into()), "{ended:?}");
    assert_eq!(ended[0]["pid"], pid);
    assert!(!is_there(pid));
    assert!(is_there(gateway.pid()), "the other gateway, and so its worker, lives");
    // Its worker reads the end of its stdin then.
    drop(gateway);
}
