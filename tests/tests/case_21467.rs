//! The case of NousResearch/hermes-agent#21467, rebuilt: the report prints its table, `reap` lists
//! exactly the stale workers, and ends them and nobody else.

use std::{fs, process::Command};

use slashtrace_tests::{Setup, host};

#[test]
fn the_stale_workers_are_told_and_ended_and_those_in_use_are_not() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let token = Setup::ebpf().token().to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.toml");
    let demo = fs::read_to_string(host::fixture("demo.toml")).expect("the demo's profile");
    let own = demo.replace("tui_gateway.slash_worker\"]", &format!("{token}\"]"));
    assert!(own.contains(&token), "the demo's profile has changed");
    fs::write(&profile, own).expect("the profile can be written");
    let mut case = Command::new("python3");
    case.arg(host::fixture("leaky_gateway/case_21467.py"));
    case.arg("--slashtrace").arg(host::slashtrace()).arg("--profile").arg(&profile);
    case.args(["--module", &token, "--output"]).arg(folder.path());
    let output = case.output().expect("python3 runs");
    let told = String::from_utf8_lossy(&output.stderr);
    // It has checked who was listed, ended and left.
    assert!(output.status.success(), "{told}");
    for (session, stale) in [
        ("20260505_104123_c8063a", 62),
        ("20260506_072606_f58b62", 30),
        ("20260506_082737_2a52e2", 29),
        ("20260506_114839_5a88dd", 4),
        ("20260505_163042_6b92fb", 3),
        ("total", 128),
    ] {
        for left in [stale, 0] {
            let row = format!("{session:<22}  {stale:>7}  {left:>9}  ");
            assert!(told.contains(&row), "`{row}` is not in\n{told}");
        }
    }
    assert!(told.contains("128 of 130 workers that live now are unused, in 5 sessions"), "{told}");
    assert!(told.contains("none of them is left"), "{told}");
}
