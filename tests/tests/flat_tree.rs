//! A gateway that serves many terminals from one process: its workers, which have none, are joined to
//! them by what the kernel and a file show.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::Deserialize;
use slashtrace::model::{Body, Confidence, Finding, FindingState, Kind, Record, Spawn};
use slashtrace_tests::{
    Recording, Setup, host,
    recorded::{finding, pids, workers},
};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Said {
    did: String,
    pid: Option<u32>,
    port: Option<u16>,
}

struct Gateway {
    child: Child,
    stdin: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    port: u16,
    pid: u32,
}

impl Gateway {
    fn start(word: &str, token: &str) -> Self {
        let mut child = Command::new("python3")
            .arg(host::fixture("flat_gateway.py"))
            .args([word, token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let stdin = child.stdin.take().expect("a pipe");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first: Said = said.next().expect("a line").map(|it| parse(&it)).expect("it says one");
        let (port, pid) = (first.port.expect("it listens"), first.pid.expect("it has one"));
        Self { child, stdin, said, port, pid }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").expect("it reads");
    }

    /// The worker that it says it forked next.
    fn worker(&mut self) -> u32 {
        loop {
            let line = self.said.next().expect("a line").expect("that can be read");
            let said = parse(&line);
            if said.did == "worker" {
                return said.pid.expect("a worker");
            }
        }
    }

    fn end(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().expect("a child can be waited for").success());
    }
}

fn parse(line: &str) -> Said {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The recording's own profile, with terminals.
fn profile(setup: &Setup, word: &str) -> String {
    let profile = setup.own_profile().replace("[graces]", "[graces]\nterminal = \"2s\"");
    format!(
        r#"{profile}
[terminal]
session_file_env = "FLAT_SESSION_FILE"
session_key = "session_id"
[terminal.opener]
tokens = ["{word}"]
inner_gateway = ["-m", "nobody"]
"#
    )
}

fn replies(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record.body, Body::Reply(_))).count()
}

fn orphans(records: &[Record]) -> Vec<&Finding> {
    let all = records.iter().filter_map(finding);
    all.filter(|it| it.kind == Kind::TerminalOrphan && it.state == FindingState::Opened).collect()
}

fn spawned(recording: &Recording, pid: u32) -> Spawn {
    recording.wait_for("the worker", PATIENCE, |records| {
        workers(records).iter().any(|worker| worker.pid == pid)
    });
    let records = recording.so_far();
    let mut all = workers(&records).into_iter().filter(|worker| worker.pid == pid);
    all.next().expect("it was just there").clone()
}

#[test]
fn the_worker_of_a_closed_terminal_is_named_and_no_other() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = Setup::ebpf().flag("--sample-interval=500ms");
    let token = setup.token().to_owned();
    let word = format!("dashboard-{token}");
    let profile = profile(&setup, &word);
    let recording = setup.profile(profile).start();
    let mut gateway = Gateway::start(&word, &token);
    // One after the other, as people open them.
    let tabs = ["1", "2", "3"].map(|tab| {
        gateway.order(&format!("tab {tab}"));
        gateway.worker()
    });
    // A session that no terminal asked for.
    let mut plain = TcpStream::connect(("127.0.0.1", gateway.port)).expect("it listens");
    plain.write_all(b"create plain\n").expect("it reads");
    let plain_worker = gateway.worker();

    for pid in tabs.into_iter().chain([plain_worker]) {
        let spawn = spawned(&recording, pid);
        assert_eq!(spawn.terminal, None, "{spawn:?}");
        let thread = spawn.thread.as_ref().expect("a gateway's thread forked it");
        // The builder's, the timer's; and the pool's, unless that is older than the first terminal.
        assert!(thread.clones.len() >= 2, "{thread:?}");
        let [builder, timer, ..] = thread.clones.as_slice() else { unreachable!() };
        assert!(builder.at_ns >= timer.at_ns + 50_000_000, "a timer lies between: {thread:?}");
    }
    let hook = recording.so_far();
    let Body::Start(start) = &hook[0].body else { panic!("a start") };
    let hook = start.capabilities.iter().find(|it| it.name == "replies").expect("it is told");
    if hook.ok {
        recording.wait_for("what was replied", PATIENCE, |records| replies(records) == 4);
    } else {
        host::skip(&format!("replies are not seen here: {}", hook.detail));
    }

    gateway.order("close 2");
    recording.wait_for("its worker named", PATIENCE, |records| !orphans(records).is_empty());
    let records = recording.so_far();
    let named = orphans(&records);
    assert_eq!(named.iter().flat_map(|it| pids(it)).collect::<Vec<_>>(), [tabs[1]]);
    let expected = if hook.ok { Confidence::Strong } else { Confidence::Weak };
    assert_eq!(named[0].confidence, expected, "{named:?}");
    let pid = gateway.pid;
    gateway.end();
    recording.wait_for("the gateway's end", PATIENCE, |records| {
        records.iter().any(|record| matches!(&record.body, Body::Exit(exit) if exit.pid == pid))
    });
    let recorded = recording.stop();
    assert_eq!(orphans(&recorded.records).len(), 1, "{recorded}");
    // Of the environment of what runs in a terminal only the named variable is read.
    assert!(!String::from_utf8_lossy(&recorded.bytes).contains("flat-canary"), "a secret got in");
}
