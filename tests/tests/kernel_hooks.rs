//! Each hook works on this kernel, by the way that is the best there, and says by which.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{process::Command, thread, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::Value;
use slashtrace::model::{Body, Record, Source, TerminalEvent, TerminalState};
use slashtrace_tests::{Program, Recorded, Setup, Step, host, recorded::has_exited};

const PATIENCE: Duration = Duration::from_secs(20);

/// The checks of `slashtrace doctor` that are about hooks.
fn hooks() -> Vec<Value> {
    let doctor = Command::new(host::slashtrace()).args(["doctor", "--json"]).output();
    let printed = doctor.expect("slashtrace runs").stdout;
    let checks: Vec<Value> = serde_json::from_slice(&printed).expect("an array of checks");
    let is_hook = |check: &Value| check["name"].as_str().expect("a name").starts_with("hook ");
    checks.into_iter().filter(is_hook).collect()
}

#[test]
fn doctor_finds_every_hook() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let hooks = hooks();
    assert!(hooks.len() >= 7, "{hooks:?}");
    let detail = |name: &str| {
        let found = hooks.iter().find(|hook| hook["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {hooks:?}"))["detail"].clone()
    };
    let (calls, terminal) = (detail("hook count-calls"), detail("hook terminal"));
    for hook in &hooks {
        let name = hook["name"].as_str().expect("a name");
        let optional = ["hook terminal", "hook count-calls", "hook replies"].contains(&name);
        assert!(optional || hook["ok"] == true, "{hook}");
    }
    // `sock_send_length` came with 6.3. Without it nothing else is missing.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().expect("a version"), numbers.next().expect("of two numbers"));
    let replies = hooks.iter().find(|hook| hook["name"] == "hook replies").expect("it is told");
    assert_eq!(replies["ok"], version >= (6, 3), "{replies}");
    assert_eq!(replies["level"], "optional");
    // Both kernels of the guests have fexit and fentry, and fs/pipe.c of before 6.15.
    if host::is_guest() {
        assert_eq!(calls, "fexit of pipe_read");
        assert_eq!(terminal, "fentry of devpts_pty_kill");
    }
}

fn closes(records: &[Record]) -> Vec<&TerminalEvent> {
    let bodies = records.iter().filter_map(|record| match &record.body {
        Body::Terminal(event) if event.state == TerminalState::Closed => Some(&**event),
        _ => None,
    });
    bodies.collect()
}

/// A process that opens a terminal, runs a worker on it, and closes it; what was recorded, and the
/// process.
fn close_a_terminal(setup: Setup) -> (Recorded, u32) {
    let recording = setup.start();
    let worker = ["worker", "-m", recording.token(), "--session-key", "on-terminal"];
    let argv = worker.map(str::to_owned).to_vec();
    let mut closer = Program::new("closer", vec![Step::OnTerminal(argv, 2_000)]).start();
    assert!(closer.wait().success());
    recording.wait_for("its close", PATIENCE, |records| !closes(records).is_empty());
    (recording.stop(), closer.pid())
}

/// The kernel program on this hook says which terminal was closed, by whom, and says it once.
fn told_by(hook: &str, setup: Setup) {
    let (recorded, closer) = close_a_terminal(setup);
    let Body::Start(start) = &recorded.records[0].body else { panic!("no start") };
    let terminal = start.capabilities.iter().find(|one| one.name == "terminal").expect("it");
    assert!(terminal.detail.starts_with(hook), "{terminal:?}");
    let [closed] = closes(&recorded.records)[..] else { panic!("not one close\n{recorded}") };
    assert_eq!(closed.source, Source::Kernel, "{closed:?}");
    assert_eq!(closed.closer.as_ref().map(|process| process.pid), Some(closer), "{closed:?}");
    recorded.worker("on-terminal");
}

/// Whether this hook can be attached here; if not, says that the test is skipped.
fn has(hook: &str) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let tried = Command::new(host::slashtrace())
        .args(["run", "--sensor=ebpf", "--quiet", "--duration=1ms", "--evidence"])
        .arg(folder.path().join("evidence.ndjson"))
        .arg(format!("--terminal-hook={hook}"))
        .output()
        .expect("slashtrace runs");
    let told = String::from_utf8_lossy(&tried.stderr);
    if tried.status.success() {
        return true;
    }
    assert_eq!(tried.status.code(), Some(2), "{told}");
    assert!(!host::is_guest(), "the kernels of the guests have {hook}: {told}");
    let why = told.lines().nth(1).unwrap_or_default().trim();
    host::skip(&format!("no {hook} of devpts_pty_kill here: {why}"));
    false
}

#[test]
fn a_close_is_told_by_fentry() {
    if host::may_load_kernel_programs() && has("fentry") {
        told_by("fentry", Setup::ebpf().flag("--terminal-hook=fentry"));
    }
}

#[test]
fn a_close_is_told_by_kprobe() {
    if host::may_load_kernel_programs() && has("kprobe") {
        told_by("kprobe", Setup::ebpf().flag("--terminal-hook=kprobe"));
    }
}

#[test]
fn nobody_is_missed_in_a_burst() {
    if !host::may_load_kernel_programs() {
        return;
    }
    const BURST: usize = 50;
    let recording = Setup::ebpf().start();
    let mut burst: Vec<_> =
        (0..BURST).map(|_| recording.worker("burst", vec![Step::AwaitByte]).start()).collect();
    for worker in &mut burst {
        worker.go_on();
        assert!(worker.wait().success());
    }
    let recorded = recording.stop();
    let workers = recorded.workers_of("burst");
    assert_eq!(workers.len(), BURST);
    for worker in workers {
        assert_eq!(recorded.exit_of(worker.identity()).code, Some(0));
    }
}

#[test]
fn nothing_is_judged_by_the_clock_of_people() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if !host::is_guest() {
        host::skip(
            "the clock of this machine is let alone: `cargo xtask vm` sets its guests' back",
        );
        return;
    }
    let recording = Setup::ebpf().start();
    recording.worker("before", Vec::new()).run();
    let now = clock_gettime(ClockId::Realtime);
    let past = Timespec { tv_sec: now.tv_sec - 3_600, ..now };
    clock_settime(ClockId::Realtime, past).expect("root sets the clock");
    let after = recording.worker("after", Vec::new()).run();
    recording.wait_for("its exit", PATIENCE, |records| has_exited(records, after));
    thread::sleep(Duration::from_secs(1));
    let recorded = recording.stop();
    let backwards = |pair: &[Record]| pair[0].time > pair[1].time;
    assert!(recorded.records.windows(2).any(backwards), "it was not set back\n{recorded}");
    assert!(recorded.records.windows(2).all(|pair| pair[0].seq < pair[1].seq));
}
