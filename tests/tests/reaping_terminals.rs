//! `slashtrace run --policy enforce` and terminals: what is shown again, what a gateway was started
//! from, and what somebody else shows.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use slashtrace::model::{Body, Confidence, Kind, Outcome, Record, TerminalState};
use slashtrace_tests::{
    Recording, Setup, host,
    reaping::{PATIENCE, actions, every_trigger, is_there, of, reaper, worker_of},
    recorded::finding,
};

/// A gateway that is told, line by line, what to do, and says `done`. `open KEY` opens a terminal
/// whose session leader names a session, `close` closes the last one, `spawn KEY` spawns a worker that
/// is no part of any terminal, `call` has the last one answer.
const GATEWAY: &str = r#"
import fcntl, os, pty, signal, subprocess, sys, tempfile, termios
token, workers, terminals = sys.argv[1], [], []
signal.signal(signal.SIGHUP, signal.SIG_IGN)
WORKER = "import os\nwhile os.read(0, 64): os.write(1, b'answer\\n')"
def open_terminal(key):
    master, slave = pty.openpty()
    file = tempfile.NamedTemporaryFile("w")
    os.chmod(file.name, 0o644)
    file.write('{"session_id": "%s"}' % key), file.flush()
    def lead():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    leader = subprocess.Popen(["sleep", "120"], preexec_fn=lead,
        env={**os.environ, "SLASHTRACE_TEST_FILE": file.name})
    os.close(slave)
    terminals.append((master, leader, file))
def close_terminal():
    master, leader, file = terminals.pop()
    os.close(master), leader.wait(), file.close()
def spawn(key):
    workers.append(subprocess.Popen(
        [sys.executable, "-c", WORKER, "-m", token, "--session-key", key],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
def call():
    workers[-1].stdin.write(b"call\n"), workers[-1].stdin.flush()
    assert workers[-1].stdout.readline() == b"answer\n"
orders = {"open": open_terminal, "close": close_terminal, "spawn": spawn, "call": call}
for line in sys.stdin:
    order, *key = line.split()
    orders[order](*key)
    print("done", flush=True)
for worker in workers: worker.kill()
for _, leader, _ in terminals: leader.kill()
"#;

/// Opens a terminal and starts a program on it which outlives it; closes the terminal at the line
/// `log-out`, what else is said goes to the program and back. Behind a `/` come arguments that only
/// make it look like something.
const SHELL: &str = r#"
import fcntl, os, pty, signal, subprocess, sys, termios
master, slave = pty.openpty()
def lead():
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.set_inheritable(master, False)
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:sys.argv.index("/")]],
    stdin=subprocess.PIPE, preexec_fn=lead)
os.close(slave)
for line in sys.stdin:
    if line == "log-out\n":
        os.close(master)
        print("done", flush=True)
    else:
        child.stdin.write(line.encode()), child.stdin.flush()
child.stdin.close()
child.wait()
"#;

/// Runs one worker behind the other, each on a terminal of its own that it outlives; closes it at a
/// line, and says `done` when the worker has ended by SIGTERM.
const CLOSER: &str = r#"
import fcntl, os, pty, signal, subprocess, sys, termios
for line in sys.stdin:
    master, slave = pty.openpty()
    def lead():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(120)", "-m", sys.argv[1], "--session-key", "k"],
        stdin=subprocess.PIPE, preexec_fn=lead)
    os.close(slave)
    print("done", flush=True)
    sys.stdin.readline()
    os.close(master)
    try:
        print("done" if worker.wait(20) == -signal.SIGTERM else worker.returncode, flush=True)
    except subprocess.TimeoutExpired:
        worker.kill()
        print("it lives", flush=True)
"#;

struct Gateway {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Gateway {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 runs");
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, stdin, lines }
    }

    fn own(token: &str) -> Self {
        Self::start(Command::new("python3").args(["-c", GATEWAY, token]))
    }

    fn order(&mut self, order: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{order}").expect("it reads");
        let answer = self.lines.next().expect("an answer").expect("that can be read");
        assert_eq!(answer, "done", "{order}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It ends what it started at the end of its stdin.
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}

/// With a terminal rule and a grace of this many seconds.
fn with_terminals(setup: Setup, grace: u32) -> Setup {
    let profile = setup.own_profile();
    let graces = format!("[graces]\nterminal = \"{grace}s\"\nclient = \"2s\"\n");
    let rule = "[terminal]\nsession_file_env = \"SLASHTRACE_TEST_FILE\"\n\
                session_key = \"session_id\"\n[terminal.opener]\ntokens = [\"dashboard\"]\n\
                inner_gateway = [\"serves-its-terminal\"]\n";
    setup.profile(profile.replace("[graces]\n", &graces) + rule)
}

fn of_terminals(records: &[Record]) -> usize {
    let found = records.iter().filter_map(finding);
    found.filter(|finding| finding.kind == Kind::TerminalOrphan).count()
}

/// Waits until so many terminals that show this session were told of in this state.
fn wait_for_terminals(recording: &Recording, key: &str, state: TerminalState, count: usize) {
    recording.wait_for("a terminal", PATIENCE, |records| {
        let told = records.iter().filter(|record| match &record.body {
            Body::Terminal(event) => event.state == state && event.session.as_deref() == Some(key),
            _ => false,
        });
        told.count() >= count
    });
}

#[test]
fn a_session_that_is_shown_again_within_the_grace_keeps_its_worker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = with_terminals(reaper("enforce"), 10).start();
    let mut gateway = Gateway::own(recording.token());
    gateway.order("open again");
    gateway.order("spawn again");
    let worker = worker_of(&recording, "again").identity();
    wait_for_terminals(&recording, "again", TerminalState::Opened, 1);
    gateway.order("close");
    wait_for_terminals(&recording, "again", TerminalState::Closed, 1);
    thread::sleep(Duration::from_secs(2));
    gateway.order("open again");
    wait_for_terminals(&recording, "again", TerminalState::Opened, 2);
    thread::sleep(Duration::from_secs(11));
    assert_eq!(of_terminals(&recording.so_far()), 0, "it is shown");
    gateway.order("call");
    thread::sleep(Duration::from_secs(1));
    // And it is ended when that is closed, too.
    gateway.order("close");
    recording.wait_for("the result", PATIENCE, |records| {
        of(records, worker).iter().any(|(.., outcome)| *outcome == Some(Outcome::Exited))
    });
    let recorded = recording.stop();
    let closed = recorded.records.iter().rfind(|record| {
        matches!(&record.body, Body::Terminal(event) if event.state == TerminalState::Closed)
    });
    let first = recorded.record_of(|body| matches!(body, Body::Action(_)));
    assert!(first.boottime_ns > closed.expect("two").boottime_ns, "{recorded}");
}

/// The kernel tells of a close before it takes the terminal from its processes.
#[test]
fn without_a_grace_each_worker_is_ended_when_its_terminal_closes() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = with_terminals(reaper("enforce"), 0).start();
    let mut closer =
        Gateway::start(Command::new("python3").args(["-c", CLOSER, recording.token()]));
    for count in 1..=8 {
        closer.order("open");
        // Any dashboard that another test runs opens terminals, too.
        let own = closer.child.id();
        recording.wait_for("its terminal", PATIENCE, |records| {
            let opened = records.iter().filter(|record| match &record.body {
                Body::Terminal(event) => {
                    event.state == TerminalState::Opened
                        && event.master.as_ref().is_some_and(|master| master.pid == own)
                }
                _ => false,
            });
            opened.count() >= count
        });
        closer.order("close");
    }
    let recorded = recording.stop();
    let refused = actions(&recorded.records);
    let refused = refused.iter().filter(|action| action.outcome == Some(Outcome::Refused));
    assert_eq!(refused.count(), 0, "{recorded}");
}

/// `nohup` and a log-out: the controlling terminal of a gateway is the shell's that it was started
/// from, and its sessions go on without it.
#[test]
fn a_gateway_outlives_the_terminal_that_it_was_started_from() {
    if !host::may_load_kernel_programs() {
        return;
    }
    outlives(&[], &[]);
}

/// A dashboard that somebody started in the terminal of another one's session is not of that session.
#[test]
fn a_dashboard_outlives_the_session_that_it_was_started_in() {
    if !host::may_load_kernel_programs() {
        return;
    }
    outlives(&["dashboard"], &["dashboard"]);
}

/// `hermes serve`, started by a tool of a dashboard: it serves whoever connects.
#[test]
fn a_server_outlives_the_terminal_that_a_dashboard_opened_for_something_else() {
    if !host::may_load_kernel_programs() {
        return;
    }
    outlives(&[], &["dashboard"]);
}

/// A sandbox keeps the terminal that it was started from, and counts its own from 0: of the two with
/// one index, the one that is closed is not its gateway's.
#[test]
fn a_terminal_of_the_same_index_on_another_devpts_is_another() {
    const SANDBOX: &str = r#"
import os, sys
mount = "mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && " \
    "mount --bind /dev/pts/ptmx /dev/ptmx && exec \"$@\""
inside = ["sh", sys.executable, "-c", *sys.argv[1:]]
os.execvp("unshare", ["unshare", "-m", "sh", "-c", mount, *inside])
"#;
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = with_terminals(reaper("enforce"), 2).start();
    let mut command = Command::new("python3");
    command.args(["-c", SHELL, SANDBOX, GATEWAY, recording.token(), "/"]);
    let mut gateway = Gateway::start(&mut command);
    gateway.order("spawn probe");
    let outside = worker_of(&recording, "probe").terminal.expect("its gateway's");
    for _ in 0..=outside.index {
        gateway.order("open tab");
    }
    gateway.order("spawn served");
    let worker = worker_of(&recording, "served");
    assert_eq!(worker.terminal, Some(outside));
    let of_index = |records: &[Record], state: TerminalState| {
        let events = records.iter().filter_map(|record| match &record.body {
            Body::Terminal(event) => Some(event),
            _ => None,
        });
        let inside = events.filter(|it| it.index == outside.index && it.state == state);
        inside.filter(|it| Some(it.instance) != outside.instance).count()
    };
    recording.wait_for("the one inside", PATIENCE, |records| {
        of_index(records, TerminalState::Opened) > 0
    });
    gateway.order("close");
    recording
        .wait_for("its close", PATIENCE, |records| of_index(records, TerminalState::Closed) > 0);
    thread::sleep(Duration::from_secs(4));
    assert!(is_there(worker.pid));
    gateway.order("call");
    let recorded = recording.stop();
    assert!(actions(&recorded.records).is_empty(), "{recorded}");
    let mut found = recorded.records.iter().filter_map(finding);
    let sure = found.find(|it| it.kind == Kind::TerminalOrphan && it.confidence > Confidence::Weak);
    assert!(sure.is_none(), "{sure:?}\n{recorded}");
}

/// A gateway and what opened its terminal, with these arguments: the terminal's close ends nobody.
fn outlives(gateways: &[&str], openers: &[&str]) {
    let recording = with_terminals(reaper("enforce"), 2).start();
    let mut gateway = on_a_terminal(recording.token(), gateways, openers);
    gateway.order("spawn served");
    let worker = worker_of(&recording, "served");
    assert!(worker.terminal.is_some(), "its gateway's is taken for its own");
    thread::sleep(Duration::from_secs(2));
    gateway.order("log-out");
    recording.wait_for("the finding", PATIENCE, |records| of_terminals(records) > 0);
    thread::sleep(Duration::from_secs(3));
    assert!(is_there(worker.pid));
    gateway.order("call");
    let recorded = recording.stop();
    assert!(actions(&recorded.records).is_empty(), "{recorded}");
}

fn on_a_terminal(token: &str, gateways: &[&str], openers: &[&str]) -> Gateway {
    let mut command = Command::new("python3");
    command.args(["-c", SHELL, GATEWAY, token]).args(gateways).arg("/").args(openers);
    Gateway::start(&mut command)
}

/// The tree of hermes-agent 0.13: a dashboard opens a terminal for a session, and that session's
/// gateway and worker live below the terminal's leader.
#[test]
fn a_worker_below_the_leader_of_a_terminal_that_a_dashboard_opened_is_ended_with_it() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = with_terminals(reaper("enforce"), 2).start();
    let mut gateway = on_a_terminal(recording.token(), &["serves-its-terminal"], &["dashboard"]);
    let dashboard = gateway.child.id();
    gateway.order("spawn nested");
    let worker = worker_of(&recording, "nested");
    assert_eq!(worker.opener.as_ref().map(|opener| opener.pid), Some(dashboard));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(of_terminals(&recording.so_far()), 0, "it is open");
    gateway.order("log-out");
    recording.wait_for("its end", PATIENCE, |records| {
        of(records, worker.identity()).iter().any(|(.., outcome)| *outcome == Some(Outcome::Exited))
    });
    let recorded = recording.stop();
    let mut findings = recorded.records.iter().filter_map(finding);
    let orphan = findings.find(|finding| finding.kind == Kind::TerminalOrphan).expect("the cause");
    assert_eq!(orphan.confidence, Confidence::Proven, "{orphan:?}");
    assert!(orphan.text.ends_with("(controlling terminal)"), "{orphan:?}");
    let mut terminals = recorded.records.iter().filter_map(|record| match &record.body {
        Body::Terminal(event) => event.master.as_ref(),
        _ => None,
    });
    assert!(terminals.any(|master| master.pid == dashboard), "{recorded}");
}

/// A foreigner has a worker and a terminal of his own show the session of somebody else, and closes
/// it.
#[test]
fn a_session_that_a_foreigner_shows_is_not_closed_by_him() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = with_terminals(every_trigger(reaper("enforce")), 2).start();
    let mut victim = Gateway::own(recording.token());
    victim.order("spawn wanted");
    let worker = worker_of(&recording, "wanted");
    let mut command = Command::new("python3");
    command.args(["-c", GATEWAY, recording.token()]).uid(65_534).gid(65_534).current_dir("/");
    let mut foreigner = Gateway::start(&mut command);
    foreigner.order("open wanted");
    foreigner.order("spawn wanted");
    wait_for_terminals(&recording, "wanted", TerminalState::Opened, 1);
    foreigner.order("close");
    recording.wait_for("his own worker's end", PATIENCE, |records| {
        actions(records).iter().any(|action| action.outcome == Some(Outcome::Exited))
    });
    thread::sleep(Duration::from_secs(4));
    assert!(is_there(worker.pid));
    victim.order("call");
    let recorded = recording.stop();
    assert!(of(&recorded.records, worker.identity()).is_empty(), "{recorded}");
    assert!(recorded.signals_of(worker.identity()).is_empty(), "{recorded}");
}
