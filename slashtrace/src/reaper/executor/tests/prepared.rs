//! What a worker may become between what was opened in advance and the moment of acting.

use std::{fs::File, io::Write as _, os::fd::OwnedFd};

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use super::*;
use crate::{
    model::{Body, Role, Terminal},
    reaper::testing::{Recorder, gateway_of, spawn},
};

/// An executor that has opened what the end of this worker takes.
fn prepared(worker: &Subject, gateway: Option<&Subject>) -> Executor {
    let policy = Policy { min_age: Duration::ZERO, ..policy() };
    let mut executor = Executor::new(Profile::hermes(), &policy);
    let id = worker.id();
    let mut spawn = spawn(id, Role::Worker);
    spawn.parent = gateway.map(|gateway| gateway_of(gateway.id()));
    executor.observe(&Recorder::default().record(id.start_ns, Body::Spawn(Box::new(spawn))));
    assert!(executor.prepare(executor.next_to_prepare().unwrap()));
    let opened = executor.checks.prepared();
    assert!(opened.pidfd(&id).is_some());
    for pid in [Some(worker), gateway].into_iter().flatten().map(|one| one.id().pid) {
        assert!(opened.files(pid).is_some());
    }
    executor
}

/// A worker that goes on as `script` once it is given a line.
fn turning(script: &str) -> Subject {
    Subject::worker_with(&format!("echo; read line; {script}"), &[], Stdio::piped())
}

#[test]
fn what_was_opened_in_advance_ends_a_worker_and_no_other_program_or_session() {
    let mut subject = turning("exec sleep 60");
    let executor = prepared(&subject, None);
    let session = Some("other".to_owned());
    let reason = refused(&executor, Decision { session, ..subject.decision() });
    assert!(reason.contains("another session"), "{reason}");
    let ready_before = ready(&executor, subject.decision());
    writeln!(subject.take_stdin()).unwrap();
    wait_until(|| subject.has_token("60"));
    let reason = refused(&executor, subject.decision());
    assert!(reason.contains("no worker's"), "{reason}");
    let Terminated::Said(action) = ready_before.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was signalled");
    };
    assert_eq!(action.outcome, Some(Outcome::Refused), "{}", action.detail);
    assert!(subject.runs());

    let subject = Subject::worker(&looping());
    let executor = prepared(&subject, None);
    let progress = terminated(&executor, &subject);
    ended(&executor, &progress);
}

/// The kernel gives the pid to a worker of the very same arguments that is in use.
#[test]
fn a_pid_that_was_opened_in_advance_and_reused_gets_no_signal() {
    let last = Path::new("/proc/sys/kernel/ns_last_pid");
    for _ in 0..50 {
        let mut first = Subject::worker(&looping());
        let executor = prepared(&first, None);
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
fn one_that_ended_after_it_was_opened_is_gone() {
    let mut subject = Subject::worker(&looping());
    let executor = prepared(&subject, None);
    let decision = subject.decision();
    subject.signal(Signal::KILL);
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
fn who_became_another_user_after_it_was_opened_is_refused() {
    let rule = "-m tui_gateway.slash_worker --session-key k";
    let become_other = format!("exec setpriv --reuid 65534 sh -c '{LOOP}' {rule}");
    // It has another user before it executes its loop, and for a moment no arguments.
    let other = |subject: &Subject, before: u32| {
        subject.uid() != before && subject.has_token("-c") && !subject.has_token("--reuid")
    };
    let (mut worker, mut gateway) = (turning(&become_other), turning(&become_other));
    let uid = worker.uid();
    if uid != 0 || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no user can be changed: not root, or no setpriv");
        return;
    }
    let executor = prepared(&worker, Some(&gateway));
    let decision = Decision { gateway: Some(gateway.id()), ..worker.decision() };
    ready(&executor, decision.clone());
    writeln!(gateway.take_stdin()).unwrap();
    wait_until(|| other(&gateway, uid));
    let reason = refused(&executor, decision.clone());
    assert!(reason.contains("that of its gateway"), "{reason}");
    writeln!(worker.take_stdin()).unwrap();
    wait_until(|| other(&worker, uid));
    let reason = refused(&executor, decision);
    assert!(reason.contains("its real user id is 65534"), "{reason}");
}

#[test]
fn a_worker_that_forked_another_after_it_was_opened_is_a_gateway() {
    let inner = format!("sh -c '{LOOP}' -m tui_gateway.slash_worker --session-key z");
    let mut subject = turning(&format!("{inner} & wait"));
    let executor = prepared(&subject, None);
    ready(&executor, subject.decision());
    writeln!(subject.take_stdin()).unwrap();
    let proc = ProcFs::default();
    let child = || {
        let children = proc.children(subject.id().pid).unwrap();
        let executed = |pid: &&u32| {
            let cmdline = proc.cmdline(**pid, 4096).unwrap().unwrap_or_default();
            cmdline.tokens().contains(&&b"z"[..])
        };
        children.iter().find(executed).copied()
    };
    wait_until(|| child().is_some());
    let reason = refused(&executor, subject.decision());
    assert!(reason.contains("it is the gateway of worker"), "{reason}");
    subject.inner = child();
}

#[test]
fn a_terminal_that_closes_after_the_worker_was_opened_is_seen_closed() {
    let open = || -> rustix::io::Result<(OwnedFd, String)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&master)?;
        let slave = ptsname(&master, Vec::new())?.into_string().unwrap();
        Ok((master, slave))
    };
    let Ok((master, slave)) = open() else {
        eprintln!("SKIPPED: no terminal can be opened");
        return;
    };
    let index = slave.rsplit('/').next().unwrap().parse().unwrap();
    let terminal = Some(Terminal { instance: None, index });
    let stdin = File::options().read(true).write(true).open(&slave).unwrap();
    let script = format!("trap '' HUP; echo; {LOOP}");
    let mut command = Command::new("setsid");
    command.args(["-c", "sh", "-c", &script, "-m", "tui_gateway.slash_worker"]);
    command.args(["--session-key", "k"]);
    let subject = Subject::start(&mut command, stdin);
    drop(command);
    let executor = prepared(&subject, None);
    let decision = Decision { terminal, ..subject.decision() };
    let reason = refused(&executor, decision.clone());
    assert!(reason.contains("as controlling terminal"), "{reason}");
    drop(master);
    ready(&executor, decision);
}
