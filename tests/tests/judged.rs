//! What could not be judged is said, and what a worker left unreaped is found, with real processes.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use slashtrace::model::{Body, FindingState, Kind};
use slashtrace_tests::{Setup, host};

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with two workers that it talks to: one that does not reap its child, and, if that is
/// asked for, one without a session key. It ends when its stdin does.
const GATEWAY: &str = "
import subprocess, sys
token, keyless = sys.argv[1:]
child = 'import subprocess, sys; left = subprocess.Popen([\"true\"]); sys.stdin.read()'
def worker(program, *arguments):
    argv = [sys.executable, '-c', program, '-m', token, *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
workers = [worker(child, '--session-key', 'leaves')]
if keyless == 'keyless':
    workers.append(worker('import sys; sys.stdin.read()'))
sys.stdin.read()
";

fn gateway(token: &str, keyless: &str) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", GATEWAY, token, keyless]).stdin(Stdio::piped());
    command.spawn().expect("python3 runs")
}

#[test]
fn a_zombie_below_a_worker_is_named_until_it_is_reaped() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Setup::ebpf().start();
    let mut gateway = gateway(recording.token(), "no");
    let is = |body: &Body, state: FindingState| matches!(body, Body::Finding(it) if it.kind == Kind::Zombie && it.state == state);
    recording.wait_for("the finding", PATIENCE, |records| {
        records.iter().any(|record| is(&record.body, FindingState::Opened))
    });
    // Whoever adopts it reaps it.
    drop(gateway.stdin.take());
    recording.wait_for("its end", PATIENCE, |records| {
        records.iter().any(|record| is(&record.body, FindingState::Closed))
    });
    gateway.wait().expect("it ends");
    let recorded = recording.stop();
    let found = recorded.findings().into_iter().find(|found| found.kind == Kind::Zombie);
    let found = found.expect("it was found").clone();
    let pids = |count: usize| (found.workers.len(), found.processes.len()) == (1, count);
    assert!(pids(1) && !found.workers[0].unused, "{found:?}");
    assert_eq!(found.session.as_deref(), Some("leaves"));
}

#[test]
fn a_worker_without_a_key_ends_in_exit_code_3_and_is_not_called_healthy() {
    if !host::may_load_kernel_programs() {
        return;
    }
    for (keyless, code) in [("keyless", 3), ("no", 0)] {
        let setup = Setup::ebpf();
        let folder = tempfile::tempdir().expect("a folder");
        let (profile, out) = (folder.path().join("profile.toml"), folder.path().join("out"));
        let text = setup.own_profile().replace("zombie = \"2s\"", "zombie = \"1h\"");
        fs::write(&profile, text).expect("it can be written");
        let output = Command::new(host::slashtrace())
            .arg("--profile")
            .arg(&profile)
            .args(["record", "--junit"])
            .arg(folder.path().join("junit.xml"))
            .arg("--output")
            .arg(&out)
            .args(["--", "sh", "-c", "sleep 3 | python3 -c \"$0\" \"$1\" \"$2\"", GATEWAY])
            .args([setup.token(), keyless])
            .output()
            .expect("slashtrace runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        let report = fs::read_to_string(out.join("report.md")).expect("it is there");
        let junit = fs::read_to_string(folder.path().join("junit.xml")).expect("it is there");
        let first =
            "No leak was seen in 1 of 2 workers; 1 could not be judged: no session key (1).";
        assert_eq!(report.contains(first), code == 3, "{report}");
        assert_eq!(junit.contains("<skipped message=\"not judged: "), code == 3, "{junit}");
        assert!(told.contains("healthy"), "the other one is: {told}");
    }
}
