//! Bundles of real hermes-agent: a run that leaks fails, a healthy one does not; what was recorded as
//! root is judged again by anybody, and the report says which hermes-agent it was.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, fs::chown, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use slashtrace_tests::{hermes, host};

/// Neither root nor anybody.
const NOBODY: u32 = 65_534;

fn record(version: &str, scenario: &str, into: &Path) -> Option<Output> {
    let python = hermes::venv(version)?.join("bin/python");
    let mut command = Command::new(host::slashtrace());
    command.args(["record", "--quiet", "--count-calls", "--fail-on", "any", "-o"]).arg(into);
    command.arg("--").arg(python).arg(host::fixture("hermes/driver.py"));
    command.args(["--scenario", scenario]).stdin(Stdio::null()).stdout(Stdio::null());
    Some(command.output().expect("slashtrace runs"))
}

/// The same until hermes-agent does what it does in most runs only.
fn record_a_race(version: &str, scenario: &str, into: &Path) -> Option<Output> {
    for _ in 0..3 {
        let output = record(version, scenario, into)?;
        if output.status.code() != Some(0) {
            return Some(output);
        }
        fs::remove_dir_all(into).expect("it was made");
    }
    host::skip(&format!("{scenario}: hermes-agent did not race in three runs"));
    None
}

/// What a maintainer does with it: on another machine, without root.
fn judged_again(bundle: &Path, folder: &Path) {
    let program = folder.join("slashtrace");
    fs::copy(host::slashtrace(), &program).expect("it can be copied");
    let archive = folder.join("theirs.tar.gz");
    fs::copy(bundle.join("slashtrace-report.tar.gz"), &archive).expect("it is there");
    chown(&archive, Some(NOBODY), None).expect("root can give it away");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let replay = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg(&archive).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.stdin(Stdio::null()).output().expect("it runs")
    };
    let replayed = replay(&["replay"]);
    let told = String::from_utf8_lossy(&replayed.stderr);
    assert!(replayed.status.success() && told.contains("identical to the recorded"), "{told}");
    let report = replay(&["report", "--format", "markdown"]);
    let theirs = String::from_utf8_lossy(&report.stdout);
    let ours = fs::read_to_string(bundle.join("report.md")).expect("it is there");
    assert_eq!(theirs, ours);
}

fn check(version: &str, leak: &str) {
    if !host::may_load_kernel_programs() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let leaky = folder.path().join("leaky");
    let Some(output) = record_a_race(version, leak, &leaky) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let report = fs::read_to_string(leaky.join("report.md")).expect("it is there");
    println!("{}", report.split("## Findings").next().unwrap_or_default());
    assert!(report.contains(&format!("hermes-agent {version}, by pip")), "{report}");
    // Which known issue that is depends on how far apart they were spawned.
    assert!(report.contains("duplicate-worker") && report.contains("looks like [#"), "{report}");
    judged_again(&leaky, folder.path());

    let healthy = folder.path().join("healthy");
    let output = record(version, "healthy", &healthy).expect("as before");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let report = fs::read_to_string(healthy.join("report.md")).expect("it is there");
    assert!(report.contains("No leak was seen"), "{report}");
    println!("{}", report.lines().nth(2).unwrap_or_default());
}

#[test]
fn hermes_agent_0_13_0() {
    check("0.13.0", "resume3");
}

#[test]
fn hermes_agent_0_19_0() {
    check("0.19.0", "resume3");
}
