//! The real Chromium as a worker: a browser with its zygotes, renderers and helpers is one worker, and
//! while it runs nothing is found.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::model::{Body, Kind, Role};
use slashtrace_tests::{Setup, host};

/// Longer than every grace of the profile.
const RUNS: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_mins(1);

/// Its other processes are the same program with a `--type`.
fn profile(program: &str) -> String {
    format!(
        r#"
name = "browser"
[worker]
program = "{program}"
exclude = ["--type=*"]
session = "none"
one_per = "gateway"
[graces]
overlap = "2s"
orphan = "5s"
unreachable = "5s"
zombie = "5s"
"#
    )
}

#[test]
fn a_browser_is_one_worker_and_nothing_is_found() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(browser) = host::chromium() else { return };
    let program = browser.file_name().expect("it is a file").to_string_lossy().into_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let recording = Setup::ebpf().profile(profile(&program)).start();
    let mut child = Command::new(&browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--remote-debugging-port=0", "about:blank"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser runs");
    let pid = child.id();
    // It answers once this is written.
    let ready = folder.path().join("DevToolsActivePort");
    let until = Instant::now() + host::patience(PATIENCE);
    while !ready.exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(50));
    }
    let started = ready.exists();
    thread::sleep(RUNS);
    let alive = child.try_wait().expect("a child can be waited for").is_none();
    let recorded = recording.stop();
    let ended = kill_process(Pid::from_child(&child), Signal::TERM);
    child.wait().expect("a child can be waited for");
    assert!(started && alive && ended.is_ok(), "the browser did not run\n{recorded}");

    let within = |process: u32, above: &[slashtrace::model::Process]| {
        process == pid || above.iter().any(|above| above.pid == pid)
    };
    let spawns: Vec<_> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Spawn(spawn) => Some(&**spawn),
            _ => None,
        })
        .filter(|spawn| {
            let parent = spawn.parent.as_ref().is_some_and(|it| it.process.pid == pid);
            parent
                || within(spawn.pid, &spawn.ancestors)
                || spawn.worker.is_some_and(|it| it.pid == pid)
        })
        .collect();
    let workers: Vec<u32> =
        spawns.iter().filter(|it| it.role == Role::Worker).map(|it| it.pid).collect();
    assert_eq!(workers, [pid], "one browser\n{recorded}");
    let below = spawns.iter().filter(|it| it.role == Role::Descendant).count();
    println!("one worker, {below} processes below it");
    assert!(below >= 3, "its zygotes and helpers descend from it: {below}\n{recorded}");
    let theirs: Vec<Kind> = recorded
        .findings()
        .into_iter()
        .filter(|finding| {
            finding.workers.iter().any(|worker| worker.pid == pid)
                || finding.processes.iter().any(|it| spawns.iter().any(|spawn| spawn.pid == it.pid))
        })
        .map(|finding| finding.kind)
        .collect();
    assert_eq!(theirs, [], "{recorded}");
}
