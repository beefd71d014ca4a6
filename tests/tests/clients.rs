//! `abandoned`: a gateway that listens, and its clients come and go.

use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use slashtrace::model::{Body, FindingState, FindingWorker, Kind, Record};
use slashtrace_tests::{
    Setup, host,
    recorded::{finding, opened},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than the client grace of this test, and some rounds.
const PAST_THE_GRACE: Duration = Duration::from_secs(4);

fn gateway(token: &str, outgoing: u16) -> (Child, u16) {
    let mut child = Command::new("python3")
        .arg(host::fixture("clients_gateway.py"))
        .args([token, &outgoing.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("it is piped"))
        .read_line(&mut line)
        .expect("it says its port");
    (child, line.trim().parse().expect("a port"))
}

/// Whether the last look at the gateway shows so many clients.
fn connected(records: &[Record], gateway: u32, clients: u32) -> bool {
    let mut looks = records.iter().filter_map(|record| match &record.body {
        Body::Clients(look) if look.pid == gateway => Some(look),
        _ => None,
    });
    looks
        .next_back()
        .is_some_and(|look| look.complete && look.listening == 1 && look.connected == clients)
}

fn closed(records: &[Record]) -> bool {
    let mut findings = records.iter().filter_map(finding);
    findings.any(|found| found.kind == Kind::Abandoned && found.state == FindingState::Closed)
}

#[test]
fn a_worker_is_abandoned_when_its_gateway_has_no_client() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let provider = TcpListener::bind("127.0.0.1:0").expect("a port");
    let outgoing = provider.local_addr().expect("it is bound").port();
    let setup = Setup::ebpf().flag("--sample-interval=200ms");
    let profile = setup.own_profile().replace("[graces]", "[graces]\nclient = \"2s\"");
    let recording = setup.profile(profile).start();

    let (mut child, port) = gateway(recording.token(), outgoing);
    let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    recording.wait_for("a client", PATIENCE, |records| connected(records, child.id(), 1));
    std::thread::sleep(PAST_THE_GRACE);
    assert!(opened(&recording.so_far(), Kind::Abandoned).is_empty(), "a client is connected");

    drop(client);
    // The connection to the provider stays, and is no client.
    recording.wait_for("no client", PATIENCE, |records| connected(records, child.id(), 0));
    recording
        .wait_for("abandoned", PATIENCE, |records| opened(records, Kind::Abandoned).len() == 1);
    assert!(!closed(&recording.so_far()));

    let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens still");
    recording.wait_for("withdrawn", PATIENCE, closed);
    drop(client);
    drop(child.stdin.take());
    assert!(child.wait().expect("it was started").success());

    let recorded = recording.stop();
    let found = recorded.opened(Kind::Abandoned);
    let [found] = found.as_slice() else { panic!("one finding: {found:?}") };
    let worker = recorded.worker("clients").identity();
    assert_eq!(found.workers.iter().map(FindingWorker::identity).collect::<Vec<_>>(), [worker]);
    assert!(found.workers[0].unused);
}
