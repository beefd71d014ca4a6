//! The command line as its users meet it: exit codes, what is printed where, what is left behind.
//! Needs no root: what watches, watches with the poll sensor.

#![expect(clippy::unwrap_used, reason = "a test that fails says so with a panic")]

mod bundle;
mod recording;
mod usage;

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

/// A copy of the program. This process never has it open for writing: a test that forks meanwhile
/// would pass that on, and what is open for writing cannot be executed.
fn copy_program(to: &Path) {
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_slashtrace")).arg(to).status();
    assert!(status.unwrap().success());
}

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
