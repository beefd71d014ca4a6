//! Who can still write to a worker's stdin, tried on real processes and pipes.

use std::{
    io::Write as _,
    io::pipe,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio, id},
};

use super::{Checks, No};
use crate::{
    host::proc::{
        Allowance, ProcFs,
        fake::{Fake, FakeProc},
    },
    model::{Identity, Kind, Terminal},
    profile::Profile,
    reaper::{
        Decision, Policy,
        testing::{LOOP, Subject, wait_until},
    },
};

/// The kinds for which it matters who holds stdin once the gateway has gone: all of them.
const KINDS: [Kind; 3] = [Kind::GatewayOrphan, Kind::Unreachable, Kind::TerminalOrphan];

fn orphan(subject: &Subject, kind: Kind) -> Decision {
    // A gateway that has ended.
    let gateway = Some(Identity { pid: subject.id().pid, start_ns: 1 });
    Decision { gateway, kind, ..subject.decision() }
}

fn all(decision: &Decision) -> Result<(), No> {
    Checks::new(Path::new("/proc"), Profile::hermes(), &Policy::default()).all(decision)
}

fn check(subject: &Subject, kind: Kind) -> Result<(), String> {
    all(&orphan(subject, kind)).map_err(|no| match no {
        No::Gone => "gone".to_owned(),
        No::Refused(reason) => reason,
    })
}

/// Passes the check. Another test's child that was forked and has not executed yet holds whatever
/// this process holds or held, for a moment.
fn passes(subject: &Subject, kind: Kind) {
    wait_until(|| match check(subject, kind) {
        Ok(()) => true,
        // Without privilege not every process can be looked at.
        Err(reason) if reason.contains("cannot be seen") => subject.uid() != 0,
        Err(reason) => {
            assert!(reason.contains("in use"), "{kind}: {reason}");
            false
        }
    });
}

#[test]
fn stdin_that_another_process_holds_is_in_use() {
    let (reader, writer) = pipe().unwrap();
    let subject = Subject::worker_with(&format!("echo; {LOOP}"), &[], reader);
    // What the gateway left behind: a child that goes on in its place.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo; read line"]).stderr(writer);
    let holder = Subject::start(&mut command, Stdio::piped());
    drop(command);
    for kind in KINDS {
        let expected = format!("in use: {} holds its stdin", holder.id());
        wait_until(|| check(&subject, kind) == Err(expected.clone()));
    }
    // One that was seen to come from the worker itself is its own affair.
    let descendants = vec![holder.id()];
    let decision = Decision { descendants, ..orphan(&subject, Kind::GatewayOrphan) };
    wait_until(|| all(&decision).is_ok() || subject.uid() != 0);
}

#[test]
fn a_fellow_worker_that_got_the_pipe_when_it_was_forked_does_not_use_it() {
    let (reader, writer) = pipe().unwrap();
    let subject = Subject::worker_with(&format!("echo; {LOOP}"), &[], reader);
    let rule = ["-c", "echo; read line", "-m", "tui_gateway.slash_worker"];
    let mut command = Command::new("/bin/sh");
    command.args(rule).stderr(writer);
    let fellow = Subject::start(&mut command, Stdio::piped());
    drop(command);
    passes(&subject, Kind::GatewayOrphan);
    for kind in [Kind::Unreachable, Kind::TerminalOrphan] {
        let expected = format!("in use: {} holds its stdin", fellow.id());
        wait_until(|| check(&subject, kind) == Err(expected.clone()));
    }
    // Unless it is the very one that forked it.
    let gateway = Some(Identity { start_ns: 1, ..fellow.id() });
    let decision = Decision { gateway, ..orphan(&subject, Kind::GatewayOrphan) };
    assert!(matches!(all(&decision), Err(No::Refused(_))));
}

/// A wrapper that stays, with a worker's arguments and a pipe to the real one: what it is asked it
/// hands on, also behind the end of its gateway, whose pipe another process may have taken over.
#[test]
fn a_launcher_that_holds_the_pipe_of_its_worker_uses_it() {
    let rule = "-m tui_gateway.slash_worker --session-key k";
    let script = format!("exec 3> >(exec sh -c '{LOOP}' {rule}); echo $!; {LOOP}");
    let mut command = Command::new("/bin/bash");
    command.args(["-c", &script]).args(rule.split(' '));
    let launcher = Subject::start(&mut command, Stdio::null());
    let proc = ProcFs::default();
    let pid = launcher.inner.unwrap();
    let start_ns = proc.stat(pid).unwrap().unwrap().start_ns;
    wait_until(|| {
        let cmdline = proc.cmdline(pid, 4096).unwrap().unwrap();
        cmdline.tokens().first() == Some(&&b"sh"[..])
    });
    let worker = Identity { pid, start_ns };
    let gateway = Some(Identity { pid, start_ns: 1 });
    let decision = Decision { worker, gateway, ..orphan(&launcher, Kind::GatewayOrphan) };
    let expected = No::Refused(format!("in use: {} holds its stdin", launcher.id().pid));
    wait_until(|| all(&decision) == Err(expected.clone()));
}

#[test]
fn stdin_that_only_the_worker_and_its_children_hold_is_not_in_use() {
    let script = format!("exec 3>/proc/self/fd/0; sleep 60 >/dev/null & echo $!; {LOOP}");
    let mut subject = Subject::worker_with(&script, &[], Stdio::piped());
    for kind in KINDS {
        let expected = format!("in use: {} holds its stdin", id());
        wait_until(|| check(&subject, kind) == Err(expected.clone()));
    }
    drop(subject.take_stdin());
    for kind in KINDS {
        passes(&subject, kind);
    }
}

#[test]
fn stdin_that_is_no_pipe_is_judged_by_what_it_is() {
    let null = Subject::worker(&format!("echo; {LOOP}"));
    assert_eq!(check(&null, Kind::GatewayOrphan), Ok(()));
    let reason = check(&null, Kind::Unreachable).unwrap_err();
    assert!(reason.ends_with("no pipe by now"), "{reason}");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket = Subject::worker_with(&format!("echo; {LOOP}"), &[], OwnedFd::from(theirs));
    for kind in KINDS {
        assert_eq!(check(&socket, kind), Err(format!("in use: {} holds its stdin", id())));
    }
    drop(ours);
    for kind in KINDS {
        passes(&socket, kind);
    }
}

#[test]
fn one_that_has_read_something_since_it_was_sampled_is_in_use() {
    let mut subject = Subject::worker_with("echo; read line; sleep 60", &[], Stdio::piped());
    let sampled = ProcFs::default().io_syscr(subject.id().pid).unwrap().unwrap();
    let decision = |subject: &Subject| Decision { syscr: Some(sampled), ..subject.decision() };
    let checks = || Checks::new(Path::new("/proc"), Profile::hermes(), &Policy::default());
    assert_eq!(checks().has_been_quiet(&decision(&subject)), Ok(()));
    writeln!(subject.take_stdin(), "a call").unwrap();
    wait_until(|| checks().has_been_quiet(&decision(&subject)).is_err());
}

/// A forged or mistaken close: the kernel takes a terminal that is closed from everybody.
#[test]
fn a_terminal_that_somebody_still_has_is_not_closed() {
    const PTS_3: u32 = 136 << 8 | 3;
    for has_it in [0, 10, 20, 30] {
        let fake = FakeProc::new();
        // 10 leads the session of the gateway 20; the worker 30 has one of its own.
        for (pid, sid) in [(10, 10), (20, 10), (30, 30)] {
            let tty_nr = if pid == has_it { PTS_3 } else { PTS_3 + 1 };
            fake.put(&Fake { pid, sid, tty_nr, ..Fake::default() });
        }
        let proc = fake.proc();
        let mut worker = proc.stat(30).unwrap().unwrap();
        let id = |pid: u32| Identity { pid, start_ns: proc.stat(pid).unwrap().unwrap().start_ns };
        let terminal = Some(Terminal { instance: Some(7), index: 3 });
        let gateway = Some(id(20));
        let decision =
            Decision { worker: id(30), gateway, terminal, ..Subject::worker("echo").decision() };
        let root = proc.root();
        let checks = Checks::new(root, Profile::hermes(), &Policy::default());
        let allowed = checks.was_hung_up(&mut worker, Some((id(20), proc.stat(20))), &decision);
        assert_eq!(allowed.is_ok(), has_it == 0, "{has_it}: {allowed:?}");
        let other = Decision { terminal: None, ..decision.clone() };
        let looked = Some((id(20), proc.stat(20)));
        assert_eq!(checks.was_hung_up(&mut worker, looked, &other), Ok(gateway));
        let unreadable = (id(20), Err(std::io::Error::other("for a test")));
        let unread = checks.was_hung_up(&mut worker, Some(unreadable), &decision);
        assert!(matches!(unread, Err(No::Refused(_))));
    }
}

/// Its close was told, and the kernel is about to take the terminal from its processes.
#[test]
fn who_is_about_to_lose_a_terminal_is_waited_for() {
    let fake = FakeProc::new();
    let put = |tty_nr| fake.put(&Fake { pid: 30, sid: 30, tty_nr, ..Fake::default() });
    put(136 << 8 | 3);
    let proc = fake.proc();
    let mut stat = proc.stat(30).unwrap().unwrap();
    let worker = Identity { pid: 30, start_ns: stat.start_ns };
    let terminal = Some(Terminal { instance: Some(7), index: 3 });
    let decision = Decision { worker, terminal, ..Subject::worker("echo").decision() };
    let checks = Checks::new(proc.root(), Profile::hermes(), &Policy::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            put(0);
        });
        let mut seen = stat.clone();
        assert_eq!(checks.was_hung_up(&mut seen, None, &decision), Ok(None));
        assert_eq!(seen.terminal, None, "as it was at the last look");
    });
    // After a wait that expired there is no other for a while.
    put(136 << 8 | 3);
    for waits in [true, false] {
        let asked = std::time::Instant::now();
        assert!(checks.was_hung_up(&mut stat, None, &decision).is_err());
        assert_eq!(checks.in_vain.get().is_some_and(|then| then >= asked), waits);
    }
}

/// What was found by a sensor is looked at anew, and where that would take too long the answer is no:
/// for the workers of who is over the budget.
#[test]
fn who_has_more_to_read_than_there_is_time_for_keeps_his_workers() {
    let fake = FakeProc::new();
    // 20 is a worker of user 1000, 30 one of user 1001, who has another process.
    for (pid, uid) in [(20, 1_000), (30, 1_001), (40, 1_001)] {
        fake.put(&Fake { pid, ..Fake::default() });
        fake.owned_by(pid, uid);
    }
    fake.fd(20, 0, "pipe:[500]", "00");
    fake.fd(30, 0, "pipe:[600]", "00");
    let proc = fake.proc();
    let of = |pid: u32| {
        let start_ns = proc.stat(pid).unwrap().unwrap().start_ns;
        let worker = Identity { pid, start_ns };
        Decision { worker, gateway: None, ..Subject::worker("echo").decision() }
    };
    let (of_b, of_a) = (of(20), of(30));
    let checks = || {
        let checks = Checks::new(proc.root(), Profile::hermes(), &Policy::default());
        let allowance = Allowance { burst_ns: 300_000, rate_ns: 0 };
        Checks { proc: checks.proc.with_counted(allowance), ..checks }
    };
    assert_eq!(checks().is_not_in_use(&of_a), Ok(()));
    for fd in 10..600 {
        fake.fd(40, fd, "/dev/null", "02");
    }
    let checks = checks();
    let expected =
        "who holds its stdin is not known: the processes of user 1001 take too long to read";
    for _ in 0..3 {
        assert_eq!(checks.is_not_in_use(&of_a), Err(No::Refused(expected.to_owned())));
        assert_eq!(checks.is_not_in_use(&of_b), Ok(()));
    }
    // Who uses it is found all the same.
    fake.fd(1, 5, "pipe:[600]", "01");
    assert_eq!(
        checks.is_not_in_use(&of_a),
        Err(No::Refused("in use: 1 holds its stdin".to_owned()))
    );
}
