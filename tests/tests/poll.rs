//! The poll sensor: for people without root it sees less, and says so in each finding.

use std::{fs, process::Command, thread, time::Duration};

use slashtrace::model::{Body, Confidence, Kind, ParentSource, Role, SensorKind, Source};
use slashtrace_tests::{
    Setup, Step,
    fixtures::{Did, play},
    host,
    recorded::{has_exited, opened, pids, workers},
};

/// `nobody`.
const UID: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether slashtrace can be run as another user here.
fn may_run_as_nobody() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        host::skip("not root: slashtrace cannot be run as another user");
    }
    root
}

#[test]
fn a_duplicate_is_named_without_root() {
    if !may_run_as_nobody() {
        return;
    }
    let setup = Setup::poll_as(UID).flag("--sample-interval=500ms");
    let token = setup.token().to_owned();
    let recording = setup.start();
    let mut gateway = Command::new("python3");
    gateway.arg(host::fixture("leaky_gateway/gateway.py"));
    gateway.args(["--module", &token, "--scenario", "healthy,duplicate", "--tag", "poll"]);
    let did = play(&mut gateway);
    let expected = |scenario: &str| -> &Did {
        let found = did.iter().find(|did| did.did == "expect" && did.scenario == scenario);
        found.expect("the gateway says what is to be expected")
    };
    let last = expected("duplicate").pids[1];
    recording.wait_for("exit", PATIENCE, |records| has_exited(records, last));
    let recorded = recording.stop();

    let Body::Start(start) = &recorded.records[0].body else { panic!("no start") };
    assert_eq!((start.sensor, start.calls_counted), (SensorKind::Poll, false));
    let expected_duplicate = expected("duplicate");
    let findings = recorded.opened(Kind::DuplicateWorker);
    let [finding] = findings.as_slice() else { panic!("{} findings\n{recorded}", findings.len()) };
    let mut both = expected_duplicate.pids.clone();
    both.sort_unstable();
    assert_eq!((pids(finding), &finding.session), (both, &expected_duplicate.session));
    assert!(finding.confidence <= Confidence::Strong, "{finding:?}");
    let gateway = finding.gateway.as_ref().expect("the parent is alive");
    assert_eq!((Some(gateway.pid), gateway.how), (expected_duplicate.gateway, ParentSource::Proc));
    for worker in recorded.workers() {
        assert_eq!((worker.source, worker.inherited), (Source::Poll, false), "{worker:?}");
        let exit = recorded.exit_of(worker.identity());
        assert_eq!((exit.source, exit.code, exit.signal), (Source::Poll, None, None));
    }
    let healthy = &expected("healthy").session;
    assert!(recorded.findings().iter().all(|finding| finding.session != *healthy), "{recorded}");
}

#[test]
fn workers_that_were_there_before_are_inherited() {
    if !may_run_as_nobody() {
        return;
    }
    let mut setups = vec![Setup::poll_as(UID)];
    if host::may_load_kernel_programs() {
        setups.push(Setup::ebpf());
    }
    for setup in setups {
        let steps = vec![Step::AwaitByte, Step::Exit(3)];
        let mut before: Vec<_> =
            (0..2).map(|_| setup.worker("before", steps.clone()).start()).collect();
        // execve(2) lets a vfork's parent go on a moment before the new argv is in place.
        for worker in &before {
            let file = format!("/proc/{}/cmdline", worker.pid());
            let executed = || {
                let argv = fs::read(&file).expect("it is there");
                argv.windows(6).any(|bytes| bytes == b"before")
            };
            while !executed() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let recording = setup.start();
        recording.wait_for("both duplicates", PATIENCE, |records| {
            workers(records).len() == 2 && !opened(records, Kind::DuplicateWorker).is_empty()
        });
        for worker in &mut before {
            worker.go_on();
            worker.wait();
            let pid = worker.pid();
            recording.wait_for("exit", PATIENCE, |records| has_exited(records, pid));
        }
        let recorded = recording.stop();

        let inherited = recorded.workers_of("before");
        assert_eq!(inherited.len(), 2, "{recorded}");
        for worker in inherited {
            assert!(worker.inherited, "{worker:?}");
            assert_eq!(worker.role, Role::Worker);
            assert_ne!(worker.source, Source::Kernel);
            let parent = worker.parent.as_ref().expect("the parent is alive");
            assert_eq!(parent.process.pid, std::process::id());
            assert_eq!((parent.how, parent.reaper), (ParentSource::Proc, false));
            let exit = recorded.exit_of(worker.identity());
            // The kernel tells how even those ended that it did not see begin.
            let code = (exit.source == Source::Kernel).then_some(3);
            assert_eq!(exit.code, code, "{exit:?}");
        }
        let findings = recorded.opened(Kind::DuplicateWorker);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].confidence, Confidence::Weak, "{:?}", findings[0]);
    }
}
