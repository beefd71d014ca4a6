//! Secrets that are planted wherever a tracer might read them are in nothing that it writes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use slashtrace::evidence::Reader;
use slashtrace_tests::{Setup, host};

/// What was written, by name.
type Written = Vec<(String, Vec<u8>)>;

fn keep(written: &mut Written, name: &str, output: Output) {
    written.push((format!("stdout of {name}"), output.stdout));
    written.push((format!("stderr of {name}"), output.stderr));
}

/// Every file of a folder, and what is packed in it.
fn files(folder: &Path, written: &mut Written) {
    for entry in fs::read_dir(folder).expect("the bundle is there") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(&path).expect("it can be read");
        written.push((name.clone(), bytes));
        if path.extension().is_some_and(|extension| extension == "gz") {
            let unpack = Command::new("gzip").arg("-dc").arg(&path).output().expect("gzip runs");
            assert!(unpack.status.success(), "{name}");
            written.push((format!("{name}, unpacked"), unpack.stdout));
        }
        if name.ends_with(".tar.gz") {
            let into = folder.join("unpacked");
            fs::create_dir(&into).expect("the folder is ours");
            let tar = Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(&into).status();
            assert!(tar.expect("tar runs").success());
            files(&into.join("slashtrace-report"), written);
        }
    }
}

#[test]
fn no_secret_is_written_anywhere() {
    if !host::may_load_kernel_programs() {
        return;
    }
    for (sensor, sessions) in [("ebpf", "keep"), ("poll", "hash")] {
        let (planted, written) = recorded(sensor, sessions);
        assert!(planted.len() >= 40, "{} secrets were planted", planted.len());
        let mut bytes = 0;
        for (name, content) in &written {
            bytes += content.len();
            let text = String::from_utf8_lossy(content);
            for (place, secret) in &planted {
                assert!(
                    !text.contains(secret.as_str()),
                    "{sensor}: {place} ({secret}) is in {name}:\n{}",
                    around(&text, secret)
                );
            }
        }
        println!(
            "{sensor}: {} secrets planted, 0 found in {bytes} bytes of {} outputs",
            planted.len(),
            written.len()
        );
    }
}

fn around(text: &str, secret: &str) -> String {
    let at = text.find(secret).unwrap_or(0);
    let from = text.floor_char_boundary(at.saturating_sub(200));
    let to = text.floor_char_boundary((at + 200).min(text.len()));
    text[from..to].to_owned()
}

fn recorded(sensor: &str, sessions: &str) -> (BTreeMap<String, String>, Written) {
    let mut written = Written::new();
    let setup = Setup::ebpf();
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.toml");
    let own = setup.own_profile().replace("orphan = ", "terminal = \"0s\"\norphan = ");
    let rules = "[terminal]\nsession_file_env = \"HERMES_TUI_ACTIVE_SESSION_FILE\"\n\
                 session_key = \"session_id\"\n[project]\nname = \"NousResearch/hermes-agent\"\n\
                 package = \"hermes-agent\"\nissues = \"https://example.org/\"\n";
    fs::write(&profile, format!("{own}{rules}")).expect("the profile can be written");
    let rec = folder.path().join("rec");
    let plants = folder.path().join("plants");
    fs::create_dir(&plants).expect("the folder is ours");
    let summary = folder.path().join("summary.md");
    let output = Command::new(host::slashtrace())
        .arg("--profile")
        .arg(&profile)
        .args(["record", "--sensor", sensor, "--sessions", sessions, "--sample-interval", "200ms"])
        .arg("--junit")
        .arg(folder.path().join("junit.xml"))
        .arg("-o")
        .arg(&rec)
        .args(["--", "python3"])
        .arg(host::fixture("canary.py"))
        .arg(&plants)
        .arg(setup.token())
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", &summary)
        .stdin(Stdio::null())
        .output()
        .expect("slashtrace runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What the command printed is its own; the last line of it says what was planted.
    let planted = serde_json::from_slice(&output.stdout).expect("the canary says what it planted");
    written.push(("stderr of record".to_owned(), output.stderr));
    written.push(("junit.xml".to_owned(), fs::read(folder.path().join("junit.xml")).expect("it")));
    written.push(("the step summary".to_owned(), fs::read(summary).expect("it is there")));
    for format in ["text", "markdown", "html", "json", "junit"] {
        let mut report = Command::new(host::slashtrace());
        report.arg("report").arg(&rec).args(["--format", format]);
        keep(&mut written, &format!("report --format {format}"), report.output().expect("runs"));
    }
    let mut replay = Command::new(host::slashtrace());
    keep(&mut written, "replay", replay.arg("replay").arg(&rec).output().expect("it runs"));

    let records: Vec<_> = Reader::open(&rec).expect("evidence").map(Result::unwrap).collect();
    let lines: Vec<String> = records.iter().map(|it| format!("{it:?}")).collect();
    let text = lines.join("\n");
    // It is worth something only if what had the secrets in it was seen.
    for seen in ["TerminalOrphan", "Program {", "Descendant", "Some(\"9.9.9\")", "session: Some("] {
        assert!(text.contains(seen), "{sensor}: no {seen} in\n{text}");
    }
    let mut log = String::new();
    let packed = BufReader::new(File::open(rec.join("report.md")).expect("it is there"));
    packed.take(1 << 20).read_to_string(&mut log).expect("it is text");
    assert!(log.contains("terminal-orphan"), "{log}");
    files(&rec, &mut written);
    (planted, written)
}
