//! Workers whose clients are said to be gone, and gateways that have some.

use std::{
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::fs::fstat;

use super::*;
use crate::{
    host::net::foreign::testing::{ACCEPTS, client_elsewhere},
    model::Confidence,
};

const CONNECTED: &str = "in use: a client is connected to its gateway";

/// A gateway that has these as stdin and stderr.
fn gateway(stdin: impl Into<OwnedFd>, stderr: impl Into<OwnedFd>) -> Subject {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &looping()]).stderr(stderr.into());
    Subject::start(&mut command, stdin.into())
}

/// Two descriptors of a listener, one for the gateway.
fn listener() -> (TcpListener, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.try_clone().unwrap(), listener)
}

fn nothing() -> OwnedFd {
    fs::File::open("/dev/null").unwrap().into()
}

fn abandoned(subject: &Subject, gateway: &Subject) -> Decision {
    let gateway = Some(gateway.id());
    Decision { kind: Kind::Abandoned, gateway, ..subject.decision() }
}

/// The same, beside clients who are connected.
fn beside(others: &[&TcpStream], decision: &Decision) -> Decision {
    let inode = |of: &&TcpStream| fstat(of.as_fd()).unwrap().st_ino;
    let other_clients = others.iter().map(inode).collect();
    Decision { confidence: Confidence::Weak, other_clients, ..decision.clone() }
}

#[test]
fn a_client_that_waits_at_the_gateway_since_it_was_judged_is_not_cut_off() {
    let (theirs, listener) = listener();
    let gateway = gateway(nothing(), theirs);
    let mut subject = Subject::worker(&looping());
    let (executor, decision) = (executor(), abandoned(&subject, &gateway));
    let judged = ready(&executor, decision.clone());
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reason = refused(&executor, decision.clone());
    assert!(reason.ends_with(CONNECTED), "{reason}");
    std::thread::sleep(super::super::JUST_CHECKED * 2);
    let Terminated::Said(action) = judged.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was signalled");
    };
    assert_eq!(action.outcome, Some(Outcome::Refused), "{}", action.detail);
    assert!(subject.runs());
    let more = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reason = refused(&executor, decision.clone());
    assert!(reason.ends_with("in use: 2 clients are connected to its gateway"), "{reason}");
    // Other findings do not say that nobody is connected.
    drop(ready(&executor, Decision { kind: Kind::TerminalOrphan, ..decision.clone() }));
    // They go.
    drop((listener.accept().unwrap(), listener.accept().unwrap()));
    drop((client, more));
    drop(ready(&executor, decision));
}

#[test]
fn one_that_waits_on_a_unix_socket_of_the_gateway_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let gateway = gateway(nothing(), UnixListener::bind(&path).unwrap());
    let subject = Subject::worker(&looping());
    let (executor, decision) = (executor(), abandoned(&subject, &gateway));
    drop(ready(&executor, decision.clone()));
    let client = UnixStream::connect(&path).unwrap();
    let reason = refused(&executor, decision);
    assert!(reason.ends_with(CONNECTED), "{reason}");
    drop(client);
}

#[test]
fn one_that_the_gateway_accepted_from_another_network_namespace_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut command = Command::new("python3");
    command.args(["-c", ACCEPTS]).arg(&path);
    let gateway = Subject::start(&mut command, Stdio::piped());
    let subject = Subject::worker(&looping());
    let (executor, decision) = (executor(), abandoned(&subject, &gateway));
    drop(ready(&executor, decision.clone()));
    let Some(mut client) = client_elsewhere(&path) else { return };
    accepts_one(&gateway);
    let reason = refused(&executor, decision);
    assert!(reason.ends_with("who is connected to its gateway cannot be seen"), "{reason}");
    drop(client.stdin.take());
    client.wait().unwrap();
}

#[test]
fn one_that_the_gateway_accepted_counts_unless_it_is_known_not_to_be_its_own() {
    let (theirs, listener) = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    let gateway = gateway(served.try_clone().unwrap(), theirs);
    let subject = Subject::worker(&looping());
    let (executor, decision) = (executor(), abandoned(&subject, &gateway));
    for decision in [decision.clone(), beside(&[], &decision)] {
        let reason = refused(&executor, decision);
        assert!(reason.ends_with(CONNECTED), "{reason}");
    }
    let decision = beside(&[&served], &decision);
    drop(ready(&executor, decision.clone()));
    // Somebody comes who may be the one that had left.
    let back = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reason = refused(&executor, decision);
    assert!(reason.ends_with("that may be its own, come back"), "{reason}");
    drop((client, back));
}

#[test]
fn one_that_came_after_sigterm_saves_it_from_sigkill() {
    let (theirs, listener) = listener();
    let gateway = gateway(nothing(), theirs);
    let mut subject = Subject::worker(&stubborn());
    let (executor, decision) = (executor(), abandoned(&subject, &gateway));
    let judged = ready(&executor, decision);
    let Terminated::Sent(progress, _) = judged.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was not signalled");
    };
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let Escalation::Said(action) = progress.escalate(&executor, YES, boottime_ns()) else {
        panic!("SIGKILL");
    };
    assert_eq!(action.outcome, Some(Outcome::Withdrawn), "{}", action.detail);
    assert!(action.detail.ends_with(CONNECTED), "{}", action.detail);
    assert!(subject.runs());
    drop(client);
}

#[test]
fn a_gateway_that_does_not_listen_any_more_tells_nothing() {
    let gateway = gateway(nothing(), nothing());
    let subject = Subject::worker(&looping());
    let reason = refused(&executor(), abandoned(&subject, &gateway));
    assert!(reason.ends_with("its gateway does not listen any more"), "{reason}");
}

#[test]
fn a_gateway_that_ended_has_no_client() {
    let (theirs, listener) = listener();
    let mut gateway = gateway(nothing(), theirs);
    let subject = Subject::worker(&looping());
    let decision = abandoned(&subject, &gateway);
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    gateway.end();
    // It is an orphan, whose stdin is nobody's.
    drop(ready(&executor(), decision));
    drop(client);
}
