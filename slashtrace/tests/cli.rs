//! The command line as its users meet it: exit codes, what is printed where, what is left behind.
//! Needs no root: what watches, watches with the poll sensor.

#![expect(clippy::unwrap_used, reason = "a test that fails says so with a panic")]

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A shell that is a worker by the built-in profile's rule, until its stdin ends.
const WORKER: &str = "sh -c 'read line' w -m tui_gateway.slash_worker --session-key";

fn slashtrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slashtrace"));
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    slashtrace().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Ran into an error as users are to meet it: exit 2, what was wrong, what to do, no backtrace.
#[track_caller]
fn refused(output: &Output, what: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for what in what {
        assert!(text.contains(what), "`{what}` is not in:\n{text}");
    }
    for what in ["panicked", "backtrace", "   0: "] {
        assert!(!text.contains(what), "`{what}` is in:\n{text}");
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }
}

/// `record` with the poll sensor, of a command of sh.
fn record(folder: &Folder, more: &[&str], script: &str) -> Output {
    let output = folder.text("rec");
    let mut args = vec!["record", "-o", &output, "--sensor", "poll", "--sample-interval", "100ms"];
    args.extend(more);
    args.extend(["--", "sh", "-c", script]);
    run(&args)
}

/// The evidence that a recording left.
fn evidence(folder: &Folder) -> String {
    let file = fs::File::open(folder.path("rec/evidence.ndjson.gz")).unwrap();
    io::read_to_string(flate2::read::GzDecoder::new(file)).unwrap()
}

fn lines(folder: &Folder) -> Vec<serde_json::Value> {
    evidence(folder).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a bundle is made of.
const BUNDLE: [&str; 6] = [
    "evidence.ndjson.gz",
    "report.md",
    "report.html",
    "environment.json",
    "README.txt",
    "slashtrace-report.tar.gz",
];

/// Two workers for one session, the second a while after the first, for some time.
fn two_workers(seconds: u32) -> String {
    format!(
        "mkfifo \"$0.fifo\"; exec 9<>\"$0.fifo\"; {WORKER} K <&9 & sleep 0.4; {WORKER} K <&9 & \
         sleep {seconds}; echo >&9; echo >&9; wait"
    )
}

/// The built-in profile without grace for overlaps.
fn strict(folder: &Folder) -> String {
    let text = "name = \"strict\"\n[worker]\ntokens = [\"-m\", \"tui_gateway.slash_worker\"]\n\
                session_flag = \"--session-key\"\n[graces]\noverlap = \"1s\"\n";
    folder.write("strict.toml", text)
}

/// A recording in which two workers overlap for longer than they may.
fn duplicate(folder: &Folder, more: &[&str]) -> Output {
    let fifo = folder.text("demo");
    let profile = strict(folder);
    let mut args = vec!["--profile", &profile];
    args.extend(more);
    let script = two_workers(4).replace("$0", &fifo);
    record(folder, &args, &script)
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Starts it and waits until it says that it watches.
fn started(args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = slashtrace();
    // A group of its own: a signal for it is for it alone.
    command.args(args).stderr(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "it said nothing");
    (child, stderr)
}

fn wait_for(path: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < until, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn help_teaches() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for what in ["Examples:", "Exit codes:", "record", "replay", "doctor", "ps", "schema"] {
        assert!(stdout(&output).contains(what), "{what}");
    }
    let output = run(&["record", "--help"]);
    for what in
        ["--duration", "--linger", "--fail-on", "--sensor", "--count-calls", "[-- <CMD>...]"]
    {
        assert!(stdout(&output).contains(what), "{what}");
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["--frobnicate"][..],
        &[],
        &["teleport"],
        &["record", "--sensor", "crystal-ball"],
        &["record", "--duration", "soon"],
        &["record", "--linger", "5s"],
        &["run", "--fail-on", "maybe"],
    ] {
        refused(&run(args), &[]);
    }
    refused(&run(&["run", "--sensor", "poll", "--sample-interval", "1ms"]), &["100ms"]);
    refused(&run(&["run", "--sensor", "poll", "--count-calls"]), &["kernel", "next step:"]);
}

#[test]
fn a_bad_profile_is_refused_with_its_line() {
    let folder = Folder::new();
    let bad =
        folder.write("bad.toml", "name = \"p\"\n[worker]\ntokens = []\nsession_flag = \"-s\"\n");
    refused(
        &run(&["--profile", &bad, "ps"]),
        &["bad.toml", "line 3: `tokens` is empty", "next step:"],
    );
    let bad =
        folder.write("empty.toml", "name = \"p\"\n[worker]\ntokens=[\"\"]\nsession_flag=\"-s\"");
    refused(&run(&["ps", "--profile", &bad]), &["line 3: a token is empty"]);
    let bad = folder.write("binary.toml", b"name = \"p\"\n\xff\xfe");
    refused(&run(&["ps", "--profile", &bad]), &["line 2: not UTF-8"]);
    refused(&run(&["ps", "--profile", "/dev/zero"]), &["longer than"]);
    refused(
        &run(&["ps", "--profile", "/nonexistent.toml"]),
        &["/nonexistent.toml", "No such file"],
    );
}

#[test]
fn replay_refuses_what_is_no_evidence() {
    let folder = Folder::new();
    refused(&run(&["replay", "/nonexistent"]), &["/nonexistent", "No such file", "next step:"]);
    let here = folder.0.path().to_str().unwrap();
    refused(
        &run(&["replay", here]),
        &["no evidence in the folder", "evidence.ndjson.gz", "next step:"],
    );
    for (name, text, what) in [
        ("empty", "", "line 1: the file is empty"),
        ("text", "hello\n", "line 1: not a record"),
        ("newer", "{\"v\":2,\"seq\":1,\"type\":\"start\"}\n", "line 1: format version 2"),
        ("cut", "{\"v\":1,\"se", "line 1: the file ends in the middle"),
        ("escape", "{\"v\":1,\"type\":\"\\u001b[2J\"}\n", "`\\x1b[2J`"),
    ] {
        let file = folder.write(name, text);
        refused(&run(&["replay", &file]), &[name, what, "next step:"]);
    }
    refused(&run(&["replay", "-"]), &["the file is empty"]);
}

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
fn what_was_recorded_is_found_again() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--color", "always"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = evidence(&folder);
    let findings: Vec<String> = text
        .lines()
        .filter(|line| line.contains("\"type\":\"finding\""))
        .map(str::to_owned)
        .collect();
    assert!(findings[0].contains("\"kind\":\"duplicate-worker\""), "{}", stderr(&output));
    assert!(stderr(&output).contains("duplicate-worker"), "{}", stderr(&output));

    let file = &folder.text("rec/evidence.ndjson.gz");
    let output = run(&["replay", file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), findings.join("\n") + "\n");
    assert!(stderr(&output).contains("identical to the recorded"));
    let mut child = slashtrace()
        .args(["replay", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), findings.join("\n") + "\n");

    // The same recording, cut off in the middle of its last line, without its stop, and changed.
    let count = text.lines().count();
    let cut = folder.write("cut", &text[..text.len() - 20]);
    let output = run(&["replay", &cut]);
    refused(&output, &[&format!("line {count}: "), "next step:", "were judged"]);
    assert_eq!(stdout(&output), findings.join("\n") + "\n", "what was whole is judged");
    let whole: Vec<&str> = text.lines().take(count - 1).collect();
    let open = folder.write("open", whole.join("\n") + "\n");
    let output = run(&["replay", &open]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("no stop record"));
    let changed = folder.write("changed", text.replace("duplicate-worker", "lost-worker"));
    refused(&run(&["replay", &changed]), &["not the recorded ones", "recorded (", "next step:"]);

    for (least, code) in [("weak", 1), ("proven", 0)] {
        assert_eq!(run(&["replay", file, "--fail-on", least]).status.code(), Some(code));
    }
    let output = run(&["replay", file, "--table", "--color", "never"]);
    assert!(stderr(&output).contains("duplicate-worker"), "{}", stderr(&output));
}

#[test]
fn findings_fail_a_recording_that_is_told_so() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--fail-on", "weak", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(folder.path("rec/evidence.ndjson.gz").exists());
}

#[test]
fn a_bundle_is_reported_in_every_format() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--junit", &folder.text("junit.xml")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let junit = fs::read_to_string(folder.path("junit.xml")).unwrap();
    assert!(junit.contains("<failure type=\"duplicate-worker\""), "{junit}");
    let rec = &folder.text("rec");
    for (format, what) in [
        ("text", "duplicate-worker"),
        ("markdown", "# slashtrace report"),
        ("html", "duplicate-worker"),
        ("json", "\"kind\": \"duplicate-worker\""),
        ("junit", "<testsuites"),
    ] {
        let archive = &folder.text("rec/slashtrace-report.tar.gz");
        for source in [rec, archive] {
            let output = run(&["report", source, "--format", format]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert!(stdout(&output).contains(what), "{format}: {}", stdout(&output));
        }
        let file = &folder.text(format);
        run(&["report", rec, "--format", format, "-o", file]);
        assert!(fs::read_to_string(file).unwrap().contains(what), "{format}");
    }
    // What the recording said is what its replay says.
    let made = fs::read_to_string(folder.path("rec/report.md")).unwrap();
    assert_eq!(stdout(&run(&["report", rec, "--format", "markdown"])), made);
    assert_eq!(stdout(&run(&["report", rec, "--format", "junit"])), junit);
    let output = run(&["report", rec, "--fail-on", "duplicate-worker"]);
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["report", "--diff", rec, rec]);
    assert!(stdout(&output).starts_with("The same: "), "{}", stdout(&output));
    refused(&run(&["report", "--diff", rec, rec, "--format", "html"]), &["next step:"]);
    refused(&run(&["report"]), &["<BUNDLE>"]);
    refused(&run(&["report", "/nonexistent"]), &["/nonexistent", "next step:"]);
}

#[test]
fn only_what_comes_from_the_command_counts() {
    let folder = Folder::new();
    let strangers = two_workers(4).replace(" K ", " stranger ");
    let mut stranger = Command::new("sh");
    stranger.args(["-c", &strangers, &folder.text("stranger")]).process_group(0);
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

#[test]
fn sessions_are_hashed_where_that_is_wanted() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--sessions", "hash"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = lines(&folder);
    let found = records.iter().find(|line| line["type"] == "finding").unwrap();
    assert!(found["session"].as_str().unwrap().starts_with("session-"), "{found}");
    assert_eq!(run(&["replay", &folder.text("rec")]).status.code(), Some(0));
}

#[test]
fn without_root_the_same_bundle_is_made_and_says_what_it_could_not_see() {
    let folder = tempfile::Builder::new().prefix("st").tempdir_in("/tmp").unwrap();
    let copy = folder.path().join("slashtrace");
    fs::copy(env!("CARGO_BIN_EXE_slashtrace"), &copy).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut command = Command::new(&copy);
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let script = format!("(sleep 1.5 | {WORKER} mine) & sleep 0.8");
    command.args(["record", "-o", "rec", "--sample-interval", "100ms", "--linger", "2s"]);
    let output = command
        .args(["--", "sh", "-c", &script])
        .current_dir(&work)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("sensor: poll (no kernel programs: "), "{told}");
    for name in BUNDLE {
        assert!(work.join("rec").join(name).exists(), "{name}: {told}");
    }
    let report = fs::read_to_string(work.join("rec/report.md")).unwrap();
    assert!(report.contains("`mine`") && report.contains("only /proc was read"), "{report}");
}

#[test]
fn github_is_told_in_its_own_words() {
    let folder = Folder::new();
    let summary = folder.write("summary.md", "before\n");
    let output = folder.text("rec");
    let mut command = slashtrace();
    command.args(["record", "-o", &output, "--sensor", "poll", "--sample-interval", "100ms"]);
    command.args(["--profile", &strict(&folder), "--", "sh", "-c", &two_workers(2)]);
    command.arg(folder.text("fifo"));
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("\n::error title=duplicate-worker"), "{}", stderr(&output));
    let summary = fs::read_to_string(summary).unwrap();
    assert!(summary.starts_with("before\n# slashtrace report"), "{summary}");
}

#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    let folder = Folder::new();
    let file = folder.write("file", "precious");
    let here = folder.0.path().to_str().unwrap();
    refused(&run(&["record", "-o", here, "--sensor", "poll"]), &["is not empty", "next step:"]);
    refused(&run(&["record", "-o", &file, "--sensor", "poll"]), &["cannot use", "next step:"]);
    let below = format!("{file}/below");
    refused(&run(&["record", "-o", &below, "--sensor", "poll"]), &["next step:"]);
    refused(&run(&["record", "-o", "/proc/x", "--sensor", "poll"]), &["cannot make", "next step:"]);
    refused(&run(&["run", "--evidence", &file, "--sensor", "poll"]), &["exists", "next step:"]);
    refused(&run(&["run", "--evidence", "/proc/x/y"]), &["cannot create", "next step:"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn what_cannot_begin_leaves_nothing() {
    let folder = Folder::new();
    let rec = folder.text("rec");
    let output = run(&["record", "-o", &rec, "--sensor", "poll", "--", "/nonexistent/command"]);
    refused(&output, &["cannot run /nonexistent/command", "next step:"]);
    assert!(!folder.path("rec").exists());
}

#[test]
fn a_full_disk_is_told() {
    let output = run(&["run", "--sensor", "poll", "--evidence", "/dev/full"]);
    refused(&output, &["/dev/full", "No space left", "next step: make room"]);
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
        assert_eq!(status.code(), Some(0), "{name}: {text}");
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
    assert_eq!(child.wait().unwrap().code(), Some(0));
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
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(folder.path("rec/evidence.ndjson.gz").exists());
}

#[test]
fn schema_is_json_and_head_may_stop_reading() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["title"], "Record");
    let mut child = slashtrace().arg("schema").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_kernel_programs_without_root_are_refused_with_what_to_do() {
    let mut command = slashtrace();
    command.args(["run", "--sensor", "ebpf"]);
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        // `nobody` cannot look into the build's folder everywhere, so it gets a copy.
        let folder = tempfile::Builder::new().prefix("st").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.path().join("slashtrace");
        fs::copy(env!("CARGO_BIN_EXE_slashtrace"), &copy).unwrap();
        let mut command = Command::new(&copy);
        command.args(["run", "--sensor", "ebpf"]).uid(65534).gid(65534).current_dir("/");
        refused(&command.stdin(Stdio::null()).output().unwrap(), &["next step:", "root"]);
    } else {
        refused(&command.output().unwrap(), &["next step:", "root"]);
    }
}
