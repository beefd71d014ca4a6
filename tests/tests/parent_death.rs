//! A signal that a worker had asked for at its parent's end (`PR_SET_PDEATHSIG`) is not one that its
//! gateway sent.

use std::{process::Command, time::Duration};

use slashtrace::model::{Body, Signal};
use slashtrace_tests::{Setup, host, recorded::has_exited};

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway that starts a worker, which asks for SIGTERM at its end, and ends; with a thread more
/// (`threads`), or after it sent the worker SIGTERM itself (`kills`).
const GATEWAY: &str = "
import ctypes, os, signal, subprocess, sys, threading, time
token, how = sys.argv[1:]
ask = lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM)
argv = [sys.executable, '-c', 'import time; time.sleep(60)', '-m', token, '--session-key', how]
worker = subprocess.Popen(argv, preexec_fn=ask)
if how == 'threads':
    for _ in range(4):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
time.sleep(1)
if how == 'kills':
    worker.terminate()
    time.sleep(0.2)
os._exit(0)
";

/// The SIGTERM that the worker got, and how the report says that it ended.
fn sent(how: &str) -> Option<(Signal, String)> {
    if !host::may_load_kernel_programs() {
        return None;
    }
    let recording = Setup::ebpf().start();
    let token = recording.token().to_owned();
    let gateway = Command::new("python3").args(["-c", GATEWAY, &token, how]).status();
    assert!(gateway.expect("python3 runs").success());
    recording.wait_for("its end", PATIENCE, |records| {
        let worker = records.iter().find_map(|record| match &record.body {
            Body::Spawn(spawn) if spawn.session.as_deref() == Some(how) => Some(spawn.pid),
            _ => None,
        });
        worker.is_some_and(|pid| has_exited(records, pid))
    });
    let recorded = recording.stop();
    let signal = recorded.records.iter().find_map(|record| match &record.body {
        Body::Signal(signal) if signal.signal == 15 => Some(signal.clone()),
        _ => None,
    });
    let output = Command::new(host::slashtrace())
        .args(["report", "--format", "json"])
        .arg(recorded.file())
        .output()
        .expect("slashtrace runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let end = report["workers"][0]["end"].as_str().expect("it ended").to_owned();
    Some((signal.expect("it got SIGTERM"), end))
}

#[test]
fn the_end_of_its_parent_is_named() {
    for how in ["alone", "threads"] {
        let Some((signal, end)) = sent(how) else { return };
        assert!(signal.parent_ended && signal.si_code == 0, "{how}: {signal:?}");
        assert!(
            end.starts_with("SIGTERM, which it had asked for at the end of its parent"),
            "{end}"
        );
    }
}

#[test]
fn what_its_gateway_sent_is_not() {
    let Some((signal, end)) = sent("kills") else { return };
    assert!(!signal.parent_ended, "{signal:?}");
    assert!(end.starts_with("SIGTERM from python3"), "{end}");
}
