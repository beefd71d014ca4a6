//! `record`: the traced command's exit code is passed on, Ctrl-C ends in order, and either leaves
//! whole evidence.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace_tests::{Recorded, Setup, Step, host, program::ORDERS};
use tempfile::TempDir;

struct Record {
    child: Child,
    setup: Setup,
    folder: TempDir,
}

impl Record {
    fn start(arguments: &[&str]) -> Self {
        let setup = Setup::ebpf();
        let folder = tempfile::tempdir().expect("a folder");
        let profile = folder.path().join("profile.toml");
        fs::write(&profile, setup.own_profile()).expect("the profile can be written");
        let stderr = File::create(folder.path().join("stderr")).expect("a file for stderr");
        let child = Command::new(host::slashtrace())
            .arg("--profile")
            .arg(&profile)
            .args(["record", "--sensor", "ebpf", "-o"])
            .arg(folder.path().join("report"))
            .args(arguments)
            .env("BINARY", host::subject())
            .env("TOKEN", setup.token())
            .env(ORDERS, r#"[{"Exit":0}]"#)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("slashtrace runs");
        Self { child, setup, folder }
    }

    fn report(&self) -> std::path::PathBuf {
        self.folder.path().join("report")
    }

    fn told(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).expect("stderr was kept")
    }

    /// Waits for the end; returns exit code, what was recorded and what was told on stderr.
    fn end(mut self) -> (Option<i32>, Recorded, String) {
        let status = self.child.wait().expect("a child can be waited for");
        let told = self.told();
        let packed = self.report().join("evidence.ndjson.gz");
        assert!(packed.exists(), "no evidence: {told}");
        let inside = fs::read_dir(self.report()).expect("the folder is there").count();
        assert_eq!(inside, 6, "nothing half-written is left");
        let evidence = self.folder.path().join("evidence.ndjson");
        let unpacked = File::create(&evidence).expect("the folder is ours");
        let unpack = Command::new("gzip").arg("-dc").arg(&packed).stdout(unpacked).status();
        assert!(unpack.expect("gzip runs").success());
        let recorded = Recorded::check(Path::new(&evidence), self.folder);
        (status.code(), recorded, told)
    }
}

#[test]
fn the_exit_code_of_the_command_is_passed_on() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let script = r#""$BINARY" -m "$TOKEN" --session-key in_the_command; exit 7"#;
    let (code, recorded, told) = Record::start(&["--", "sh", "-c", script]).end();
    assert_eq!(code, Some(7), "{told}");
    let worker = recorded.worker("in_the_command");
    assert_eq!(recorded.exit_of(worker.identity()).code, Some(0));
    assert_eq!(recorded.last().reason, "command-exited");
    assert!(told.contains("evidence.ndjson.gz"), "{told}");
}

#[test]
fn a_command_that_is_killed_is_told_as_a_shell_does() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let (code, _, told) = Record::start(&["--", "sh", "-c", "kill -9 $$"]).end();
    assert_eq!(code, Some(128 + 9), "{told}");
}

#[test]
fn ctrl_c_ends_in_order_with_a_table() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let record = Record::start(&[]);
    let partial = record.report().join("evidence.ndjson.part");
    let end = Instant::now() + Duration::from_mins(1);
    while fs::metadata(&partial).map_or(0, |file| file.len()) == 0 {
        assert!(Instant::now() < end, "it does not watch: {}", record.told());
        thread::sleep(Duration::from_millis(20));
    }
    record.setup.worker("interrupted", vec![Step::Exit(0)]).run();
    kill_process(Pid::from_child(&record.child), Signal::INT).expect("it is running");
    let (code, recorded, told) = record.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(recorded.last().reason, "interrupted");
    recorded.exit_of(recorded.worker("interrupted").identity());
    // The table: a row for the session, behind everything that was told live.
    assert!(told.contains("interrupted"), "{told}");
    assert!(told.trim_end().ends_with("slashtrace-report.tar.gz"), "{told}");
}
