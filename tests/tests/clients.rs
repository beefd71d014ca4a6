//! `abandoned`: a gateway that listens, and its clients come and go.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use slashtrace::model::{
    Body, Confidence, FindingState, FindingWorker, Identity, Kind, Outcome, Record,
};
use slashtrace_tests::{
    Recording, Setup, host,
    recorded::{finding, opened, workers},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than the client grace of this test, and some rounds.
const PAST_THE_GRACE: Duration = Duration::from_secs(6);

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
    let profile = setup.own_profile().replace("[graces]", "[graces]\nclient = \"4s\"");
    let recording = setup.profile(profile).start();

    let (mut child, port) = gateway(recording.token(), outgoing);
    let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    recording.wait_for("a client", PATIENCE, |records| connected(records, child.id(), 1));
    thread::sleep(PAST_THE_GRACE);
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

/// The engine next looks at the sockets long after the grace; the reaper looks before it signals.
#[test]
fn a_client_that_connected_since_the_last_look_keeps_its_worker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let provider = TcpListener::bind("127.0.0.1:0").expect("a port");
    let outgoing = provider.local_addr().expect("it is bound").port();
    let setup = Setup::ebpf().flag("--sample-interval=60s").flag("--policy=enforce");
    let setup = setup.flag("--min-age=1ms").flag("--trigger=abandoned");
    let profile = setup.own_profile().replace("[graces]", "[graces]\nclient = \"4s\"");
    let recording = setup.profile(profile).start();
    let (mut child, port) = gateway(recording.token(), outgoing);
    recording.wait_for("no client", PATIENCE, |records| connected(records, child.id(), 0));
    let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let reason = |records: &[Record]| -> Option<String> {
        records.iter().find_map(|record| match &record.body {
            Body::Action(action) if action.outcome == Some(Outcome::Refused) => {
                Some(action.detail.clone())
            }
            _ => None,
        })
    };
    recording.wait_for("an answer", PATIENCE, |records| {
        reason(records).is_some() || !ended(records).is_empty()
    });
    let records = recording.so_far();
    assert_eq!(ended(&records), BTreeSet::new());
    let reason = reason(&records).expect("it was refused");
    assert!(reason.ends_with("in use: a client is connected to its gateway"), "{reason}");
    assert!(connected(&records, child.id(), 0), "nothing else had shown the client");
    drop(client);
    drop(child.stdin.take());
    child.wait().expect("it was started");
    drop(recording.stop());
}

/// One who uses a session.
struct Client(TcpStream);

impl Client {
    /// Connects, and asks for a worker; slashtrace has seen who asked when this returns.
    fn with_worker(recording: &Recording, port: u16, session: &str) -> Self {
        let mut client = Self(TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
        client.ask("worker", session);
        recording.wait_for("its worker", PATIENCE, |records| worker(records, session).is_some());
        // At one gateway it looks every 100 ms at most.
        thread::sleep(Duration::from_millis(300));
        client
    }

    fn ask(&mut self, what: &str, session: &str) {
        writeln!(self.0, "{what} {session}").expect("the gateway reads");
        let mut answer = String::new();
        BufReader::new(&self.0).read_line(&mut answer).expect("it answers");
        assert_eq!(answer, "done\n");
    }
}

fn worker(records: &[Record], session: &str) -> Option<Identity> {
    let workers = workers(records);
    let found = workers.iter().find(|worker| worker.session.as_deref() == Some(session));
    found.map(|worker| worker.identity())
}

/// Workers that are named now, by what was said last.
fn named(records: &[Record]) -> BTreeSet<Identity> {
    let mut findings = records.iter().filter_map(finding);
    let last = findings.rfind(|found| found.kind == Kind::Abandoned);
    let open = last.filter(|found| found.state != FindingState::Closed);
    open.into_iter().flat_map(|found| &found.workers).map(FindingWorker::identity).collect()
}

fn ended(records: &[Record]) -> BTreeSet<Identity> {
    let actions = records.iter().filter_map(|record| match &record.body {
        Body::Action(action) if action.outcome == Some(Outcome::Sent) => action.worker,
        _ => None,
    });
    actions.collect()
}

/// Four clients with a session each, of which two leave; a third one's session is used by the
/// fourth from then on. Exactly the workers of the two are named; returns whom it ended, and these.
fn two_of_four_leave(trigger: &str) -> Option<(BTreeSet<Identity>, BTreeSet<Identity>)> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    let provider = TcpListener::bind("127.0.0.1:0").expect("a port");
    let outgoing = provider.local_addr().expect("it is bound").port();
    let setup = Setup::ebpf().flag("--sample-interval=200ms").flag("--count-calls");
    let setup = setup.flag("--policy=enforce").flag("--min-age=1ms").flag(trigger);
    let profile = setup.own_profile().replace("[graces]", "[graces]\nclient = \"4s\"");
    let recording = setup.profile(profile).start();
    let (mut child, port) = gateway(recording.token(), outgoing);
    recording.wait_for("its own worker", PATIENCE, |records| worker(records, "clients").is_some());
    thread::sleep(Duration::from_millis(300));
    let with_worker = |session| Client::with_worker(&recording, port, session);
    let [first, mut stays, second, taken] =
        ["left-1", "stays", "left-2", "taken-over"].map(with_worker);
    let sessions = ["left-1", "left-2"];
    let left: BTreeSet<Identity> = sessions
        .iter()
        .map(|session| worker(&recording.so_far(), session).expect("it was spawned"))
        .collect();

    drop([first, second, taken]);
    recording.wait_for("they left", PATIENCE, |records| connected(records, child.id(), 1));
    // One with a session of its own asks for something in another's.
    for _ in 0..12 {
        stays.ask("call", "taken-over");
        thread::sleep(Duration::from_millis(500));
    }
    recording.wait_for("they are named", PATIENCE, |records| {
        ended(records) == left || named(records) == left
    });
    thread::sleep(PAST_THE_GRACE);
    stays.ask("call", "stays");
    let records = recording.so_far();
    let findings = || records.iter().filter_map(finding).filter(|it| it.kind == Kind::Abandoned);
    for found in findings() {
        let workers: BTreeSet<Identity> =
            found.workers.iter().map(FindingWorker::identity).collect();
        assert!(workers.is_subset(&left), "{found:?}");
        assert_eq!(found.confidence, Confidence::Weak);
    }
    let seen: BTreeSet<Identity> =
        findings().flat_map(|found| &found.workers).map(FindingWorker::identity).collect();
    assert_eq!(seen, left);
    drop(recording.stop());
    drop(child.stdin.take());
    child.wait().expect("it was started");
    Some((ended(&records), left))
}

#[test]
fn workers_whose_own_clients_left_are_named_beside_one_who_stays() {
    let Some((ended, _)) = two_of_four_leave("--trigger=abandoned") else { return };
    assert_eq!(ended, BTreeSet::new(), "weak is not sure enough by itself");
}

#[test]
fn and_are_ended_where_that_is_asked_for() {
    let Some((ended, left)) = two_of_four_leave("--trigger=abandoned=weak") else { return };
    assert_eq!(ended, left);
}
