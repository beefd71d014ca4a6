//! The command that is recorded, signals, and whoever reads what is printed.

use super::*;

#[test]
fn a_command_s_code_is_passed_on_and_its_output_untouched() {
    let folder = Folder::new();
    let output = record(&folder, &[], "echo out; echo err >&2; exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stdout(&output), "out\n");
    assert!(stderr(&output).contains("err\n") && stderr(&output).contains("evidence: "));
    assert!(!stderr(&output).contains('\x1b'), "no colour in a pipe");
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path("rec")), 0o700);
    for name in BUNDLE {
        assert_eq!(mode(folder.path("rec").join(name)), 0o600, "{name}");
    }
    let files = fs::read_dir(folder.path("rec")).unwrap().count();
    assert_eq!(files, BUNDLE.len(), "no other file is left");
    let records = lines(&folder);
    assert_eq!(records[0]["type"], "start");
    assert_eq!(records.last().unwrap()["reason"], "command-exited");
}

#[test]
fn only_what_comes_from_the_command_counts() {
    let folder = Folder::new();
    // They live until their stdin is closed.
    let strangers =
        format!("exec 9<&0; {WORKER} stranger <&9 & sleep 0.4; {WORKER} stranger <&9 & wait");
    let mut stranger = Command::new("sh");
    stranger.args(["-c", &strangers]).process_group(0).stdin(Stdio::piped());
    let mut stranger = stranger.spawn().unwrap();
    // The command's own is detached from it, and counts.
    let own = format!("(sleep 1.5 | setsid {WORKER} mine) & sleep 0.8");
    let output = record(&folder, &["--linger", "2s"], &own);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let sessions = |folder: &Folder| -> Vec<String> {
        let spawns = lines(folder).into_iter().filter(|line| line["type"] == "spawn");
        spawns.map(|line| line["session"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(sessions(&folder), ["mine"]);
    let all = Folder::new();
    record(&all, &["--system"], "sleep 0.5");
    assert!(sessions(&all).contains(&"stranger".to_owned()));
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
}

#[test]
fn a_failure_here_does_not_hide_the_command_s() {
    let folder = Folder::new();
    let rec = folder.text("rec");
    // Something stands where a report is to be written.
    for (code, expected) in [(7, 7), (0, 2)] {
        let script = format!("echo mine > {rec}/report.md; exit {code}");
        let output = record(&folder, &[], &script);
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
        assert!(stderr(&output).contains("the recording is whole"), "{}", stderr(&output));
        assert_eq!(fs::read_to_string(folder.path("rec/report.md")).unwrap(), "mine\n");
        assert_eq!(run(&["replay", &rec]).status.code(), Some(0));
        fs::remove_dir_all(folder.path("rec")).unwrap();
    }
}

/// Whether a recording of the whole machine ended in order. It may have seen workers of other tests,
/// of which not every one can be judged.
fn in_order(code: Option<i32>) -> bool {
    matches!(code, Some(0 | 3))
}

#[test]
fn ctrl_c_ends_in_order() {
    for (name, reason) in [("INT", "interrupted"), ("TERM", "terminated"), ("HUP", "hangup")] {
        let folder = Folder::new();
        let rec = folder.text("rec");
        let (mut child, mut stderr) = started(&["record", "-o", &rec, "--sensor", "poll"]);
        wait_for(&folder.path("rec/evidence.ndjson.part"));
        signal(&child, name);
        let status = child.wait().unwrap();
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        assert!(in_order(status.code()), "{name}: {status} {text}");
        let records = lines(&folder);
        assert_eq!(records.last().unwrap()["reason"], reason);
    }
}

#[test]
fn signals_are_handed_on_to_the_command() {
    let folder = Folder::new();
    let (rec, ready) = (folder.text("rec"), folder.text("ready"));
    let script = format!("trap 'exit 5' INT; echo up > {ready}; while :; do sleep 0.05; done");
    let args = ["record", "-o", &rec, "--sensor", "poll", "--", "sh", "-c", &script];
    let (mut child, _stderr) = started(&args);
    wait_for(&folder.path("ready"));
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let records = lines(&folder);
    assert_eq!(records.last().unwrap()["reason"], "command-exited");
}

#[test]
fn a_second_signal_ends_a_recording_whose_command_does_not_end() {
    let folder = Folder::new();
    let (rec, ready) = (folder.text("rec"), folder.text("ready"));
    let script = format!("trap '' INT; echo $$ > {ready}; exec sleep 30");
    let args = ["record", "-o", &rec, "--sensor", "poll", "--", "sh", "-c", &script];
    let (mut child, mut stderr) = started(&args);
    wait_for(&folder.path("ready"));
    signal(&child, "INT");
    let mut line = String::new();
    while !line.contains("waiting for the command") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0);
    }
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(folder.path("rec/evidence.ndjson.gz").exists());
    let left = fs::read_to_string(folder.path("ready")).unwrap();
    let killed = Command::new("kill").args(["-s", "KILL", left.trim()]).status().unwrap();
    assert!(killed.success(), "the command was left running");
}

#[test]
fn nohup_is_respected() {
    let folder = Folder::new();
    let rec = folder.text("rec");
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_slashtrace")])
        .args(["record", "-o", &rec, "--sensor", "poll", "--duration", "2s"])
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for(&folder.path("rec/evidence.ndjson.part"));
    signal(&child, "HUP");
    let status = child.wait().unwrap();
    assert!(in_order(status.code()), "{status}");
    let records = lines(&folder);
    assert_eq!(records.last().unwrap()["reason"], "duration");
}

#[test]
fn a_reader_that_goes_away_ends_a_run() {
    let (mut child, _stderr) = started(&["run", "--sensor", "poll", "--sample-interval", "100ms"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"type\":\"start\""), "{line}");
    drop(stdout);
    // Something has to happen for it to notice: a worker comes and goes.
    let worker = format!("echo | {WORKER} K; sleep 0.3; {WORKER} K < /dev/null; sleep 0.3");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        Command::new("sh").args(["-c", &worker]).status().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        let slow = format!("(sleep 0.5; echo) | {WORKER} K");
        Command::new("sh").args(["-c", &slow]).status().unwrap();
        assert!(Instant::now() < until, "it did not end");
    }
}

#[test]
fn nobody_reading_stderr_is_no_error() {
    let folder = Folder::new();
    let rec = folder.text("rec");
    let mut command = slashtrace();
    command.args(["record", "-o", &rec, "--sensor", "poll", "--duration", "1s"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(in_order(child.wait().unwrap().code()));
    assert!(folder.path("rec/evidence.ndjson.gz").exists());
}

/// Rust's formatter takes no width beyond 65,535.
#[test]
fn a_session_key_of_128_kb_is_reported_in_every_format() {
    let folder = Folder::new();
    let keys = "k=$(head -c 130000 /dev/zero | tr '\\0' k)";
    let script = format!(
        "{keys}; for x in a b; do (sleep 2 | sh -c 'read line' w -m tui_gateway.slash_worker \
         --session-key $x$k) & done; wait"
    );
    let output = record(&folder, &["--quiet"], &script);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}", output.status);
    let keys = lines(&folder).iter().filter(|line| line["type"] == "spawn").count();
    assert!(keys >= 2, "the workers were not seen");
    let rec = folder.text("rec");
    for format in ["text", "markdown", "html", "json", "junit"] {
        let output = run(&["report", &rec, "--format", format]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{format}: {:?}", output.status);
        assert!(!stderr(&output).contains("panicked"), "{format}");
    }
    let output = run(&["replay", "--table", &rec]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}", output.status);
}
