//! The scripts of packaging/github-action, as a runner would call them.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use slashtrace_tests::{Setup, host, program::ORDERS};
use tempfile::TempDir;

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(host::checkout().join("packaging/github-action").join(name));
    command.stdin(Stdio::null());
    command
}

/// `run.sh`, with a profile of its own; `OUTPUT` is the folder `report` in `folder`.
fn traced(folder: &TempDir, setup: &Setup, run: &str) -> Output {
    let profile = folder.path().join("profile.toml");
    fs::write(&profile, setup.own_profile()).expect("the profile can be written");
    let mut command = script("run.sh");
    command
        .env("SLASHTRACE", host::slashtrace())
        .env("RUN", run)
        .env("FAIL_ON", "any")
        .env("PROFILE", &profile)
        .env("OUTPUT", folder.path().join("report"))
        .env("JUNIT", folder.path().join("junit.xml"))
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", folder.path().join("summary.md"))
        .env("BINARY", host::subject())
        .env("TOKEN", setup.token());
    command.output().expect("bash runs")
}

#[test]
fn a_step_fails_if_its_command_leaks_or_fails() {
    if !host::may_load_kernel_programs() {
        return;
    }
    // Two workers of one session that live side by side for longer than they may.
    let leak = format!(
        r#"for _ in 1 2; do {ORDERS}='[{{"Sleep":3000}}]' "$BINARY" -m "$TOKEN" --session-key k & done; wait"#
    );
    let healthy =
        format!(r#"{ORDERS}='[{{"Exit":0}}]' "$BINARY" -m "$TOKEN" --session-key k; echo out"#);
    for (run, code, annotated) in [
        (leak.as_str(), 1, true),
        (healthy.as_str(), 0, false),
        ("exit 7", 7, false),
        ("false", 1, false),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = traced(&folder, &Setup::ebpf(), run);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{run}: {told}");
        let title = "\n::error title=duplicate-worker";
        assert_eq!(told.contains(title), annotated, "{run}: {told}");
        for file in
            ["report/report.html", "report/slashtrace-report.tar.gz", "junit.xml", "summary.md"]
        {
            assert!(folder.path().join(file).exists(), "{run}: no {file}: {told}");
        }
    }
}

#[test]
fn a_binary_that_is_there_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let environment = folder.path().join("env");
    let output = script("install.sh")
        .env("BINARY", host::slashtrace())
        .env("GITHUB_ENV", &environment)
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = fs::read_to_string(environment).expect("it says which");
    assert_eq!(said.trim_end(), format!("SLASHTRACE={}", host::slashtrace().display()));
}
