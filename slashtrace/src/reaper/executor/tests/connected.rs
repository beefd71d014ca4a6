//! Workers that are spoken to by a socket on which they listen.

use std::{
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use super::*;
use crate::host::net::foreign::testing::{ACCEPTS, client_elsewhere};

/// The same workers as the built-in profile's, which does not say how they are spoken to.
const ANY_WAY: &str = "name = \"any\"\n[worker]\ntokens = [\"-m\", \"tui_gateway.slash_worker\"]\n\
                       session_flag = \"--session-key\"\n";

fn any_way() -> Executor {
    Executor::new(Profile::parse(ANY_WAY).unwrap(), &policy())
}

/// A worker that has this as descriptor 5, and nothing as stdin.
fn holding(end: impl Into<OwnedFd>) -> Subject {
    Subject::worker_with(&format!("exec 5<&0 </dev/null; {}", looping()), &[], end.into())
}

const CONNECTED: &str = "in use: somebody is connected to it";

#[test]
fn a_client_that_connected_since_it_was_judged_is_not_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut subject = holding(listener);
    let (executor, decision) = (any_way(), subject.decision());
    let judged = ready(&executor, decision.clone());
    // It waits to be accepted.
    let client = UnixStream::connect(&path).unwrap();
    let reason = refused(&executor, decision.clone());
    assert!(reason.ends_with(CONNECTED), "{reason}");
    std::thread::sleep(super::super::JUST_CHECKED * 2);
    let Terminated::Said(action) = judged.terminate(&executor, YES, boottime_ns()) else {
        panic!("it was signalled");
    };
    assert_eq!(action.outcome, Some(Outcome::Refused), "{}", action.detail);
    assert!(subject.runs());
    // A worker that is spoken to by its stdin may have whatever connections.
    drop(ready(&super::executor(), decision));
    drop(client);
}

#[test]
fn one_that_waits_on_a_tcp_socket_counts_and_one_that_went_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let subject = holding(listener.try_clone().unwrap());
    let (executor, decision) = (any_way(), subject.decision());
    drop(ready(&executor, decision.clone()));
    let client = TcpStream::connect(address).unwrap();
    let reason = refused(&executor, decision.clone());
    assert!(reason.ends_with(CONNECTED), "{reason}");
    // Somebody else takes it, and lets it go.
    drop(listener.accept().unwrap());
    drop(client);
    drop(ready(&executor, decision));
}

#[test]
fn a_connection_that_it_accepted_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    let subject = holding(served);
    let reason = refused(&any_way(), subject.decision());
    assert!(reason.ends_with(CONNECTED), "{reason}");
    drop(client);
}

#[test]
fn a_connection_that_it_accepted_from_another_network_namespace_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut command = Command::new("python3");
    command.args(["-c", ACCEPTS]).arg(&path);
    command.args(["-m", "tui_gateway.slash_worker", "--session-key", "k"]);
    let subject = Subject::start(&mut command, Stdio::piped());
    let (executor, decision) = (any_way(), subject.decision());
    drop(ready(&executor, decision.clone()));
    let Some(mut client) = client_elsewhere(&path) else { return };
    accepts_one(&subject);
    let reason = refused(&executor, decision);
    assert!(reason.ends_with("who is connected to it cannot be seen"), "{reason}");
    drop(client.stdin.take());
    client.wait().unwrap();
}
