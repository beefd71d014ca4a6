use std::{
    collections::BTreeSet,
    fs,
    io::{Write as _, pipe},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio, id},
    time::Duration,
};

use rustix::process::{Signal, getppid};

use super::{Action, Begun, Escalation, Executor, InProgress, Ready, Terminated};
use crate::{
    host::{clock::boottime_ns, net::own_sockets, proc::ProcFs},
    model::{Identity, Kind, Mode, Outcome, Phase, Step},
    profile::Profile,
    reaper::{
        Decision, Policy, Protect,
        testing::{LOOP, Subject, wait_until},
    },
};

mod abandoned;
mod connected;
mod prepared;

const YES: &dyn Fn(&Identity) -> bool = &|_| true;
const NO: &dyn Fn(&Identity) -> bool = &|_| false;

/// A worker that says that it is there, and does not end by itself.
fn looping() -> String {
    format!("echo; {LOOP}")
}

/// One that does not end on SIGTERM.
fn stubborn() -> String {
    format!("trap '' TERM; echo; {LOOP}")
}

fn policy() -> Policy {
    Policy { mode: Mode::Enforce, ..Policy::default() }
}

fn executor() -> Executor {
    Executor::new(Profile::hermes(), &policy())
}

fn protecting(protect: Protect) -> Executor {
    Executor::new(Profile::hermes(), &Policy { protect, ..policy() })
}

fn ready(executor: &Executor, decision: Decision) -> Ready {
    match executor.begin(decision, YES) {
        Begun::Ready(ready) => *ready,
        Begun::Said(action) => panic!("{action:?}"),
    }
}

/// Waits until a process that has a listener and no other socket has accepted a connection.
fn accepts_one(subject: &Subject) {
    let proc = ProcFs::default();
    wait_until(|| own_sockets(&proc, subject.id().pid).unwrap().0.len() == 2);
}

/// Why a decision is refused at once.
fn refused(executor: &Executor, decision: Decision) -> String {
    match executor.begin(decision, YES) {
        Begun::Ready(_) => panic!("it would be ended"),
        Begun::Said(action) => {
            let Action { step, phase, outcome, detail, .. } = *action;
            assert_eq!((step, phase), (Step::Refuse, Phase::After));
            assert_eq!(outcome, Some(Outcome::Refused), "{detail}");
            detail
        }
    }
}

fn terminated(executor: &Executor, subject: &Subject) -> InProgress {
    let ready = ready(executor, subject.decision());
    assert_eq!((ready.before().step, ready.before().phase), (Step::Terminate, Phase::Before));
    match ready.terminate(executor, YES, boottime_ns()) {
        Terminated::Sent(progress, action) => {
            assert_eq!(action.outcome, Some(Outcome::Sent));
            progress
        }
        Terminated::Said(action) => panic!("{action:?}"),
    }
}

fn ended(executor: &Executor, progress: &InProgress) -> Action {
    wait_until(|| progress.has_ended());
    let action = progress.finish(executor, boottime_ns());
    assert_eq!((action.step, action.outcome), (Step::Result, Some(Outcome::Exited)));
    assert!(action.took_ms.is_some());
    action
}

#[test]
fn a_worker_is_asked_to_end() {
    let mut subject = Subject::worker(&looping());
    let executor = executor();
    drop(ready(&executor, subject.decision()));
    assert!(subject.runs(), "nothing is sent by being ready");
    let progress = terminated(&executor, &subject);
    ended(&executor, &progress);
    assert!(!subject.runs());
}

#[test]
fn descendants_that_stay_are_named_and_not_signalled() {
    let mut below = Subject::start(Command::new("/bin/sh").args(["-c", &looping()]), Stdio::null());
    let mut gone = Subject::worker(&looping());
    let subject = Subject::worker(&looping());
    let (stays, goes) = (below.id(), gone.id());
    gone.end();
    let executor = executor();
    let decision = Decision { descendants: vec![stays, goes], ..subject.decision() };
    let ready = ready(&executor, decision);
    assert_eq!(ready.before().descendants, [stays, goes]);
    let Terminated::Sent(progress, _) = ready.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was not sent");
    };
    assert_eq!(ended(&executor, &progress).descendants, [stays]);
    assert!(below.runs());
}

#[test]
fn a_pid_that_was_reused_is_another_process() {
    let mut subject = Subject::worker(&looping());
    let mut decision = subject.decision();
    decision.worker.start_ns += ProcFs::default().tick_ns();
    let reason = refused(&executor(), decision);
    assert!(reason.contains("is another process by now"), "{reason}");
    assert!(subject.runs());
}

/// The real thing: between decision and signal the worker ends, and the kernel gives its pid to a
/// worker of the very same arguments that is in use.
#[test]
fn a_worker_that_got_the_pid_of_the_one_that_was_judged_gets_no_signal() {
    let last = Path::new("/proc/sys/kernel/ns_last_pid");
    for _ in 0..50 {
        let mut first = Subject::worker(&looping());
        let executor = executor();
        let decision = first.decision();
        let pid = decision.worker.pid;
        let ready = ready(&executor, decision.clone());
        first.end();
        // Start times in /proc are whole ticks.
        std::thread::sleep(Duration::from_millis(30));
        if fs::write(last, (pid - 1).to_string()).is_err() {
            eprintln!("SKIPPED: the last pid cannot be set without privilege");
            return;
        }
        let mut second = Subject::worker(&looping());
        if second.id().pid != pid {
            // Another process was faster.
            continue;
        }
        assert_ne!(second.id(), decision.worker);
        assert!(refused(&executor, decision).contains("is another process by now"));
        let Terminated::Said(action) = ready.terminate(&executor, YES, boottime_ns()) else {
            panic!("it was signalled");
        };
        assert_eq!(action.step, Step::Refuse, "{}", action.detail);
        std::thread::sleep(Duration::from_millis(100));
        assert!(second.runs());
        return;
    }
    panic!("other processes took 50 pids");
}

#[test]
fn one_that_ended_is_gone() {
    let mut subject = Subject::worker(&looping());
    let decision = subject.decision();
    let executor = executor();
    subject.signal(Signal::KILL);
    // A zombie first, then nothing.
    for reaped in [false, true] {
        if reaped {
            subject.end();
        } else {
            wait_until(|| !executor.checks.lives(decision.worker));
        }
        let Begun::Said(action) = executor.begin(decision.clone(), YES) else { panic!("ready") };
        assert_eq!((action.step, action.outcome), (Step::Refuse, Some(Outcome::Gone)));
    }
}

#[test]
fn another_user_or_session_is_refused() {
    let subject = Subject::worker(&looping());
    let decision = subject.decision();
    let reason = refused(&executor(), Decision { uid: decision.uid + 1, ..decision.clone() });
    assert!(reason.contains("its real user id is"), "{reason}");
    for session in [None, Some("other".to_owned())] {
        let reason = refused(&executor(), Decision { session, ..decision.clone() });
        assert!(reason.contains("another session"), "{reason}");
    }
    // Where argv was cut at the spawn, the session may have been behind the cut.
    ready(&executor(), Decision { session: None, argv_truncated: true, ..decision });
}

#[test]
fn a_living_gateway_of_another_user_is_refused() {
    let mut other = Command::new("/bin/sh");
    other.args(["-c", &looping()]).uid(65_534);
    let subject = Subject::worker(&looping());
    let gateway = (subject.uid() == 0).then(|| Subject::start(&mut other, Stdio::null()));
    let proc = ProcFs::default();
    // For everybody else pid 1 is another user's.
    let foreign = gateway.as_ref().map_or_else(
        || Identity { pid: 1, start_ns: proc.stat(1).unwrap().unwrap().start_ns },
        Subject::id,
    );
    let decision = Decision { gateway: Some(foreign), ..subject.decision() };
    let reason = refused(&executor(), decision);
    assert!(reason.contains("that of its gateway"), "{reason}");

    let same = Identity { pid: id(), start_ns: proc.stat(id()).unwrap().unwrap().start_ns };
    let decision = Decision { gateway: Some(same), ..subject.decision() };
    ready(&executor(), decision.clone());
    let reason = refused(&executor(), Decision { kind: Kind::GatewayOrphan, ..decision });
    assert!(reason.ends_with("lives"), "no orphan: {reason}");
}

#[test]
fn what_is_no_worker_is_refused() {
    let plain = Subject::start(Command::new("/bin/sh").args(["-c", &looping()]), Stdio::null());
    let reason = refused(&executor(), plain.decision());
    assert!(reason.contains("no worker's"), "{reason}");
}

#[test]
fn pid_1_and_slashtrace_itself_are_refused() {
    let subject = Subject::worker(&looping());
    let above = getppid().map_or(1, |pid| pid.as_raw_nonzero().get() as u32);
    for pid in [0, 1, id(), above] {
        let start_ns = ProcFs::default().stat(pid).unwrap().map_or(0, |stat| stat.start_ns);
        let worker = Identity { pid, start_ns };
        let Begun::Said(action) = executor().begin(Decision { worker, ..subject.decision() }, YES)
        else {
            panic!("{pid} would be ended");
        };
        assert_eq!(action.step, Step::Refuse);
        let expected = if pid == 0 { Outcome::Gone } else { Outcome::Refused };
        assert_eq!(action.outcome, Some(expected), "{}", action.detail);
        let itself = action.detail.ends_with("it is slashtrace itself, or above it");
        assert_eq!(itself, pid > 1, "{}", action.detail);
    }
}

#[test]
fn who_is_protected_is_refused() {
    let subject = Subject::worker_with(&looping(), &["--keep"], Stdio::null());
    let gateway =
        Subject::start(Command::new("/bin/sh").args(["-c", &looping(), "precious"]), Stdio::null());
    let decision = Decision { gateway: Some(gateway.id()), ..subject.decision() };
    let set = |word: &str| BTreeSet::from([word.to_owned()]);
    let mut protects = vec![
        Protect { pids: BTreeSet::from([decision.worker.pid]), ..Protect::default() },
        Protect { uids: BTreeSet::from([decision.uid]), ..Protect::default() },
        Protect { tokens: set("--keep"), ..Protect::default() },
        Protect { tokens: set("precious"), ..Protect::default() },
    ];
    if fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| !text.is_empty()) {
        protects.push(Protect { cgroups: set("/"), ..Protect::default() });
    }
    for protect in protects {
        let reason = refused(&protecting(protect), decision.clone());
        assert!(reason.ends_with("protected"), "{reason}");
    }
    let others = Protect { pids: BTreeSet::from([1]), tokens: set("--kee"), ..Protect::default() };
    ready(&protecting(others), decision);
}

#[test]
fn a_worker_that_is_a_gateway_is_refused() {
    let other = Subject::worker(&looping());
    let subject = Subject::worker(&looping());
    let decision = Decision { gateway_of: vec![other.id()], ..subject.decision() };
    let reason = refused(&executor(), decision);
    assert!(reason.contains("it is the gateway of worker"), "{reason}");

    // Nobody saw it fork, but its child is a worker by its arguments.
    let inner = format!("sh -c '{LOOP}' -m tui_gateway.slash_worker --session-key z &");
    let subject = Subject::worker(&format!("{inner} echo $!; {LOOP}"));
    let pid = subject.inner.unwrap();
    wait_until(|| {
        let cmdline = ProcFs::default().cmdline(pid, 4096).unwrap().unwrap();
        cmdline.tokens().contains(&&b"z"[..])
    });
    assert_eq!(
        refused(&executor(), subject.decision()),
        format!("worker {} is not ended: it is the gateway of worker {pid}", subject.id())
    );
}

#[test]
fn one_that_executes_something_else_before_the_signal_gets_none() {
    let (reader, mut writer) = pipe().unwrap();
    let mut subject = Subject::worker_with("echo; read line; exec sleep 60", &[], reader);
    let executor = executor();
    let ready = ready(&executor, subject.decision());
    writer.write_all(b"go\n").unwrap();
    wait_until(|| subject.has_token("60"));
    let Terminated::Said(action) = ready.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was signalled");
    };
    assert_eq!((action.step, action.outcome), (Step::Refuse, Some(Outcome::Refused)));
    assert!(subject.runs());
}

#[test]
fn a_finding_that_was_withdrawn_before_the_signal_is_none() {
    let mut subject = Subject::worker(&looping());
    let executor = executor();
    let Begun::Said(action) = executor.begin(subject.decision(), NO) else { panic!("ready") };
    assert!(action.detail.ends_with("no finding justifies it any more"), "{}", action.detail);
    let ready = ready(&executor, subject.decision());
    assert!(matches!(ready.terminate(&executor, NO, boottime_ns()), Terminated::Said(_)));
    assert!(subject.runs());
}

#[test]
fn one_that_ignores_sigterm_or_is_stopped_is_killed() {
    let stopped = Subject::worker(&looping());
    stopped.signal(Signal::STOP);
    for subject in [Subject::worker(&stubborn()), stopped] {
        let executor = executor();
        let mut progress = terminated(&executor, &subject);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!progress.has_ended());
        let Escalation::Kill(before) = progress.escalate(&executor, YES, boottime_ns()) else {
            panic!("no SIGKILL");
        };
        assert_eq!((before.step, before.phase), (Step::Kill, Phase::Before));
        assert!(!progress.is_killed() && !progress.has_ended(), "told before it is done");
        let after = progress.kill(&executor, YES, boottime_ns());
        assert_eq!((after.step, after.outcome), (Step::Kill, Some(Outcome::Sent)));
        assert!(ended(&executor, &progress).detail.contains("on SIGKILL"));
    }
}

#[test]
fn one_that_is_in_use_again_gets_no_sigkill() {
    let mut subject = Subject::worker(&stubborn());
    let executor = executor();
    let mut progress = terminated(&executor, &subject);
    let Escalation::Said(action) = progress.escalate(&executor, NO, boottime_ns()) else {
        panic!("SIGKILL");
    };
    assert_eq!((action.step, action.outcome), (Step::Result, Some(Outcome::Withdrawn)));
    // The same between what was said and what is done.
    let action = progress.kill(&executor, NO, boottime_ns());
    assert_eq!((action.step, action.outcome), (Step::Result, Some(Outcome::Withdrawn)));
    assert!(subject.runs());
}

#[test]
fn one_that_executes_something_else_on_sigterm_gets_no_sigkill() {
    let mut subject = Subject::worker(&format!("trap 'exec sleep 60' TERM; echo; {LOOP}"));
    let executor = executor();
    let progress = terminated(&executor, &subject);
    wait_until(|| subject.has_token("60"));
    let Escalation::Said(action) = progress.escalate(&executor, YES, boottime_ns()) else {
        panic!("SIGKILL");
    };
    assert_eq!(action.outcome, Some(Outcome::Withdrawn));
    assert!(subject.runs());
}

#[test]
fn a_dry_run_sends_nothing() {
    let mut subject = Subject::worker(&looping());
    let policy = Policy { mode: Mode::DryRun, ..policy() };
    let executor = Executor::new(Profile::hermes(), &policy);
    let Begun::Said(action) = executor.begin(subject.decision(), YES) else { panic!("ready") };
    assert_eq!((action.step, action.phase), (Step::WouldEnd, Phase::After));
    assert!(subject.runs());
    // And refuses what enforcing would refuse.
    refused(&executor, Decision { uid: subject.uid() + 1, ..subject.decision() });
}
