//! A daemon that is ended and started again on the same folder knows whose the workers are: what was
//! seen before counts, what happened meanwhile is found, and nobody in use is ended.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::{
    evidence::Reader,
    model::{Body, Confidence, FindingState, Kind, ParentSource, Record},
};
use slashtrace_tests::{
    Setup, host,
    reaping::{PATIENCE, is_there},
    recorded::{finding, pids},
};
use tempfile::TempDir;

/// A gateway that is told, line by line, what to do, and answers each with a line. `spawn KEY` spawns a
/// worker with pipes, `call` has the last one answer, `open KEY` opens a terminal whose session leader
/// names a session, `close` closes it, `quit` leaves the workers behind.
const GATEWAY: &str = r#"
import fcntl, os, pty, signal, subprocess, sys, tempfile, termios
token, workers, terminals = sys.argv[1], [], []
signal.signal(signal.SIGHUP, signal.SIG_IGN)
WORKER = "import os, time\nwhile os.read(0, 64): os.write(1, b'answer\\n')\ntime.sleep(300)"
def spawn(key):
    workers.append(subprocess.Popen(
        [sys.executable, "-c", WORKER, "-m", token, "--session-key", key],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
    return workers[-1].pid
def call():
    workers[-1].stdin.write(b"call\n"), workers[-1].stdin.flush()
    assert workers[-1].stdout.readline() == b"answer\n"
def open_terminal(key):
    master, slave = pty.openpty()
    file = tempfile.NamedTemporaryFile("w")
    os.chmod(file.name, 0o644)
    file.write('{"session_id": "%s"}' % key), file.flush()
    def lead():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    leader = subprocess.Popen(["sleep", "300"], preexec_fn=lead,
        env={**os.environ, "SLASHTRACE_TEST_FILE": file.name})
    os.close(slave)
    terminals.append((master, leader, file))
def close_terminal():
    master, leader, file = terminals.pop()
    os.close(master), leader.wait(), file.close()
def end():
    for worker in workers: worker.kill()
    for _, leader, _ in terminals: leader.kill()
    sys.exit(0)
orders = {"spawn": spawn, "call": call, "open": open_terminal, "close": close_terminal, "end": end,
    "quit": lambda: os._exit(0)}
for line in sys.stdin:
    order, *rest = line.split()
    print(orders[order](*rest) or 0, flush=True)
end()
"#;

struct Gateway {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Gateway {
    fn start(token: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", GATEWAY, token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a python3");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, orders, answers }
    }

    fn send(&mut self, order: &str) {
        writeln!(self.orders.as_mut().expect("it lives"), "{order}").expect("it reads");
    }

    /// Has it do something; what it answers.
    fn order(&mut self, order: &str) -> u32 {
        self.send(order);
        let answer = self.answers.next().expect("an answer").expect("it is text");
        answer.parse().expect("a number")
    }

    /// Ends it; its workers stay.
    fn quit(mut self) {
        self.send("quit");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// A folder of evidence, and who writes to it.
struct Bench {
    folder: TempDir,
    setup: Setup,
}

impl Bench {
    fn new() -> Self {
        let (folder, setup) = (tempfile::tempdir().expect("a folder"), Setup::ebpf());
        let profile = setup.own_profile().replace("[graces]\n", "[graces]\nterminal = \"2s\"\n")
            + "[terminal]\nsession_file_env = \"SLASHTRACE_TEST_FILE\"\nsession_key = \"session_id\"\n";
        fs::write(folder.path().join("profile.toml"), profile).expect("a profile");
        Self { folder, setup }
    }

    fn evidence(&self) -> PathBuf {
        self.folder.path().join("evidence")
    }

    /// Starts slashtrace on the folder, and waits until it watches.
    fn start(&self, flags: &[&str]) -> Daemon {
        let before = self.records().len();
        let stderr = self.folder.path().join("stderr");
        let child = Command::new(host::slashtrace())
            .env("SLASHTRACE_RUNTIME_DIR", self.folder.path())
            .arg("--profile")
            .arg(self.folder.path().join("profile.toml"))
            .args(["run", "--sensor", "ebpf", "--sample-interval=500ms", "--evidence"])
            .arg(self.evidence().join(""))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("a file"))
            .spawn()
            .expect("slashtrace runs");
        let daemon = Daemon { child };
        self.wait_for("the start", |records| records.len() > before);
        daemon
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Every record of the folder, whoever wrote it, as if it were one file.
    fn records(&self) -> Vec<Record> {
        if !self.evidence().is_dir() {
            return Vec::new();
        }
        Reader::open(&self.evidence()).map_or(Vec::new(), |all| all.map_while(Result::ok).collect())
    }

    fn wait_for(&self, what: &str, enough: impl Fn(&[Record]) -> bool) {
        let end = Instant::now() + host::patience(PATIENCE);
        while !enough(&self.records()) {
            assert!(
                Instant::now() < end,
                "not in time: {what}\n{}\n{}",
                self.said(),
                slashtrace_tests::recorded::tell(&self.records())
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn slashtrace(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(host::slashtrace()).args(args).arg(self.evidence()).output();
        let output = output.expect("slashtrace runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

struct Daemon {
    child: Child,
}

impl Daemon {
    /// As a power cut would.
    fn kill(mut self) {
        self.child.kill().expect("it is running");
        self.child.wait().expect("a child can be waited for");
    }

    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is running");
        self.child.wait().expect("a child can be waited for").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// That a worker was sampled with its stdin held.
fn was_held(records: &[Record], pid: u32) -> bool {
    records.iter().any(|record| match &record.body {
        Body::Sample(sample) => {
            sample.pid == pid && sample.stdin.is_some_and(|it| it.holder.is_some())
        }
        _ => false,
    })
}

fn names(record: &Record, kind: Kind, pid: u32) -> bool {
    finding(record).is_some_and(|it| {
        it.kind == kind && it.state != FindingState::Closed && pids(it).contains(&pid)
    })
}

/// The records since the last start.
fn last_run(records: &[Record]) -> &[Record] {
    let start = records.iter().rposition(|record| matches!(record.body, Body::Start(_)));
    &records[start.expect("there is a start")..]
}

#[test]
fn what_was_known_before_a_restart_counts_after_it() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let bench = Bench::new();
    let daemon = bench.start(&[]);
    let mut stays = Gateway::start(bench.setup.token());
    let used = stays.order("spawn in-use");
    stays.order("call");
    stays.order("open of-terminal");
    let of_terminal = stays.order("spawn of-terminal");
    let mut leaves = Gateway::start(bench.setup.token());
    let orphan = leaves.order("spawn of-gateway");
    let gateway = leaves.child.id();
    bench.wait_for("looks at all three", |records| {
        let terminal = |record: &Record| {
            matches!(&record.body, Body::Terminal(it) if it.session.as_deref() == Some("of-terminal"))
        };
        [used, of_terminal, orphan].iter().all(|pid| was_held(records, *pid))
            && records.iter().any(terminal)
    });
    // Who only passed through is no gateway: these have been seen to hold what they gave.
    thread::sleep(Duration::from_secs(3));
    daemon.kill();
    leaves.quit();
    stays.order("close");

    let daemon = bench.start(&["--policy=enforce", "--min-age=1ms"]);
    bench.wait_for("the orphan", |records| {
        records.iter().any(|record| names(record, Kind::GatewayOrphan, orphan))
    });
    let records = bench.records();
    let found = records.iter().find(|record| names(record, Kind::GatewayOrphan, orphan));
    let found = found.and_then(finding).expect("it was just there");
    let by = found.gateway.as_ref().expect("its gateway is known although it is gone");
    // Nobody who was started now could know who forked it.
    assert_eq!((by.pid, by.how), (gateway, ParentSource::Fork));
    // That it exited was not seen in the kernel.
    assert_eq!(found.confidence, Confidence::Strong);
    bench.wait_for("the terminal", |records| {
        records.iter().any(|record| names(record, Kind::TerminalOrphan, of_terminal))
    });
    for pid in [orphan, of_terminal] {
        let end = Instant::now() + host::patience(PATIENCE);
        while is_there(pid) {
            let told = || slashtrace_tests::recorded::tell(&bench.records());
            assert!(Instant::now() < end, "{pid} was not ended\n{}\n{}", bench.said(), told());
            thread::sleep(Duration::from_millis(50));
        }
    }
    // The other one still answers.
    stays.order("spawn another");
    assert!(is_there(used), "{}", bench.said());
    assert!(bench.said().contains("resumes from earlier evidence"), "{}", bench.said());
    let code = daemon.stop();
    assert!(matches!(code, Some(0 | 3)), "{code:?}\n{}", bench.said());
    drop(stays);

    // It is one recording, in order, and comes to the same when it is judged again.
    let records = bench.records();
    let run = last_run(&records);
    assert!(matches!(&run[0].body, Body::Start(start) if start.resumed && !start.continued));
    assert!(matches!(&run[1].body, Body::Checkpoint(it) if !it.records.is_empty()));
    assert_eq!(run[0].seq, run[1].seq);
    let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    assert!(!run.iter().any(|record| names(record, Kind::GatewayOrphan, used)));
    let (code, _, said) = bench.slashtrace(&["replay", "--json"]);
    // The first one was killed, and has no `stop`.
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("identical to the recorded"), "{said}");
    let (code, report, said) = bench.slashtrace(&["report", "--format", "json"]);
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {said}");
    assert!(!said.contains("holds 2 recordings"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let workers = report["workers"].as_array().expect("a list of workers");
    let of = |pid: u32| workers.iter().filter(|it| it["pid"] == pid).count();
    for pid in [used, of_terminal, orphan] {
        assert_eq!(of(pid), 1, "{pid} is one worker, before and after: {report:#}");
    }
}

#[test]
fn a_second_daemon_on_the_same_folder_is_told_who_is_there() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let bench = Bench::new();
    let first = bench.start(&[]);
    let output = Command::new(host::slashtrace())
        .arg("--profile")
        .arg(bench.folder.path().join("profile.toml"))
        .args(["run", "--quiet", "--evidence"])
        .arg(bench.evidence())
        .output()
        .expect("slashtrace runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("pid {}", first.child.id())), "{said}");
    assert!(said.contains("next step: "), "{said}");
    assert_eq!(first.stop(), Some(0), "{}", bench.said());
}
