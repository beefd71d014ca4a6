//! docs/EVIDENCE.md is true: its recipes run on a real recording and say something.

use std::{fs, process::Command};

use slashtrace_tests::{Setup, fixtures::play, host};

/// The blocks of a document that are marked as this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut parts = text.split("```");
    let mut found = Vec::new();
    parts.next();
    while let (Some(block), after) = (parts.next(), parts.next()) {
        if let Some(body) = block.strip_prefix(&format!("{language}\n")) {
            found.push(body.to_owned());
        }
        if after.is_none() {
            break;
        }
    }
    found
}

#[test]
fn recipes_run_on_a_real_recording() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if Command::new("jq").arg("--version").output().is_err() {
        host::skip("no jq (`apt-get install jq`): the recipes of docs/EVIDENCE.md are not run");
        return;
    }
    let setup = Setup::ebpf().flag("--count-calls").flag("--sample-interval=500ms");
    let token = setup.token().to_owned();
    let demo = fs::read_to_string(host::fixture("demo.toml")).expect("the demo's profile");
    let profile = demo.replace("tui_gateway.slash_worker\"]", &format!("{token}\"]"));
    let recording = setup.profile(profile).start();
    let mut gateway = Command::new("python3");
    gateway.arg(host::fixture("leaky_gateway/gateway.py"));
    gateway.args(["--module", &token, "--scenario", "lost,orphan,terminal"]);
    play(&mut gateway);
    let recorded = recording.stop();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("evidence.ndjson"), &recorded.bytes).expect("it can be written");
    let packed = Command::new("gzip").arg("evidence.ndjson").current_dir(folder.path()).status();
    assert!(packed.expect("gzip runs").success());

    let document = fs::read_to_string(host::checkout().join("docs/EVIDENCE.md")).expect("it");
    let recipes = blocks(&document, "sh");
    assert!(recipes.len() >= 6, "{} recipes", recipes.len());
    for recipe in recipes {
        let run = Command::new("sh").args(["-c", &recipe]).current_dir(folder.path()).output();
        let run = run.expect("sh runs");
        let told = String::from_utf8_lossy(&run.stdout);
        println!("{recipe}{told}");
        assert!(run.status.success(), "{recipe}\n{}", String::from_utf8_lossy(&run.stderr));
        assert!(!told.trim().is_empty(), "it says nothing: {recipe}");
    }
}
