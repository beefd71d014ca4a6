//! Signals, whoever had them ignored or blocked; log rotation; and that two do not get in each
//! other's way.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::{
    evidence::Reader,
    model::{Body, Record},
};
use slashtrace_tests::{Setup, host};
use tempfile::TempDir;

/// Within this an end by a signal is to be seen.
const AT_ONCE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(40);

struct Bench {
    folder: TempDir,
    setup: Setup,
}

impl Bench {
    fn new() -> Self {
        let (folder, setup) = (tempfile::tempdir().expect("a folder"), Setup::ebpf());
        fs::write(folder.path().join("profile.toml"), setup.own_profile()).expect("a profile");
        Self { folder, setup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(host::slashtrace());
        command
            .env("SLASHTRACE_RUNTIME_DIR", self.folder.path())
            .arg("--profile")
            .arg(self.path("profile.toml"))
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.path("stderr")).expect("a file"));
        command
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn wait_until(&self, what: &str, is: impl Fn() -> bool) {
        let until = Instant::now() + host::patience(PATIENCE);
        while !is() {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_start(&self, file: &str) {
        let file = self.path(file);
        self.wait_until("the start", || fs::read(&file).is_ok_and(|text| text.ends_with(b"\n")));
    }

    /// Sends a signal and waits for the end, which must come at once.
    fn ends(&self, child: &mut Child, signal: Signal, code: i32) {
        let began = Instant::now();
        kill_process(Pid::from_child(child), signal).expect("slashtrace is running");
        let until = began + host::patience(PATIENCE);
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                assert_eq!(status.code(), Some(code), "{signal:?}: {}", self.said());
                let took = began.elapsed();
                assert!(took < host::patience(AT_ONCE), "{signal:?}: {took:?}");
                return;
            }
            assert!(Instant::now() < until, "{signal:?} does not end it\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has a command begin with signals ignored and blocked.
fn deaf(command: &mut Command) -> &mut Command {
    let deafen = || {
        // SAFETY: signal(2) and sigprocmask(2) may be called between fork and exec; the set is
        // initialised before it is used.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_IGN);
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the closure does nothing but what may be done between fork and exec.
    unsafe { command.pre_exec(deafen) }
}

fn read(path: &Path) -> Vec<Record> {
    let reader = Reader::open(path).expect("evidence");
    reader.map(|record| record.expect("each line is whole, and follows the one before")).collect()
}

fn starts(records: &[Record]) -> Vec<bool> {
    let starts = records.iter().filter_map(|record| match &record.body {
        Body::Start(start) => Some(start.continued),
        _ => None,
    });
    starts.collect()
}

fn replayed(path: &Path) -> Output {
    Command::new(host::slashtrace()).arg("replay").arg(path).output().expect("it runs")
}

#[test]
fn who_was_told_to_ignore_signals_heeds_them() {
    if !host::may_load_kernel_programs() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM] {
        let run = Bench::new();
        let mut child =
            deaf(&mut run.command(&["run", "--evidence", "e"])).spawn().expect("it runs");
        run.wait_for_start("e");
        run.ends(&mut child, signal, 0);
        assert!(matches!(read(&run.path("e")).last().expect("records").body, Body::Stop(_)));

        let record = Bench::new();
        let mut child = deaf(&mut record.command(&["record", "-o", "r"])).spawn().expect("it runs");
        record.wait_for_start("r/evidence.ndjson.part");
        record.ends(&mut child, signal, 0);
        assert!(record.path("r/report.md").exists());

        let reap = Bench::new();
        let mut child = deaf(&mut reap.command(&["reap", "--watch=1m"])).spawn().expect("it runs");
        reap.wait_until("watching", || reap.said().contains("watching for"));
        reap.ends(&mut child, signal, 3);
    }
}

#[test]
fn a_background_job_of_a_script_ends_by_sigint() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let record = Bench::new();
    let script = "\"$@\" & sleep 2; kill -INT $!; wait $!; echo $? > code";
    let mut command = record.command(&[]);
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(host::slashtrace()).args(args);
    command.args(["record", "-o", "r"]).current_dir(record.folder.path());
    let began = Instant::now();
    assert!(command.stderr(Stdio::null()).status().expect("sh runs").success());
    assert!(began.elapsed() < host::patience(Duration::from_secs(10)), "{:?}", began.elapsed());
    assert_eq!(fs::read_to_string(record.path("code")).expect("a code"), "0\n");
}

#[test]
fn hangup_has_the_file_opened_anew_and_nohup_is_respected() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let run = Bench::new();
    let mut child = run.command(&["run", "--evidence", "e"]).spawn().expect("it runs");
    run.wait_for_start("e");
    run.setup.worker("before", vec![]).run();
    let written = |text: &str| fs::read_to_string(run.path("e")).is_ok_and(|it| it.contains(text));
    run.wait_until("the worker", || written("\"type\":\"exit\""));
    fs::rename(run.path("e"), run.path("e.1")).expect("it is there");
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it runs");
    run.wait_for_start("e");
    run.setup.worker("behind", vec![]).run();
    run.ends(&mut child, Signal::INT, 0);
    let (old, new) = (read(&run.path("e.1")), read(&run.path("e")));
    assert_eq!((starts(&old), starts(&new)), (vec![false], vec![true]));
    let last = &old.last().expect("records").body;
    assert!(matches!(last, Body::Stop(stop) if stop.reason == "continued"), "{last:?}");
    let sessions = |records: &[Record]| {
        let spawns = records.iter().filter_map(|record| match &record.body {
            Body::Spawn(spawn) => spawn.session.clone(),
            _ => None,
        });
        spawns.collect::<Vec<_>>()
    };
    assert_eq!(
        (sessions(&old), sessions(&new)),
        (vec!["before".to_owned()], vec!["behind".to_owned()])
    );
    for file in ["e.1", "e"] {
        let output = replayed(&run.path(file));
        assert_eq!(output.status.code(), Some(0), "{file}: {output:?}");
    }
    // One after the other they are one file.
    let both = [
        fs::read(run.path("e.1")).unwrap_or_default(),
        fs::read(run.path("e")).unwrap_or_default(),
    ];
    fs::write(run.path("both"), both.concat()).expect("a file");
    assert_eq!(replayed(&run.path("both")).status.code(), Some(0));

    let nohup = Bench::new();
    let mut command = nohup.command(&["run", "--evidence", "e"]);
    let ignore = || {
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: the closure does nothing but what may be done between fork and exec.
    let mut child = unsafe { command.pre_exec(ignore) }.spawn().expect("it runs");
    nohup.wait_for_start("e");
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it runs");
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("a child").is_none(), "{}", nohup.said());
    nohup.ends(&mut child, Signal::TERM, 0);
}

#[test]
fn copytruncate_leaves_no_hole() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let run = Bench::new();
    let mut child = run.command(&["run", "--evidence", "e"]).spawn().expect("it runs");
    run.wait_for_start("e");
    run.setup.worker("before", vec![]).run();
    run.wait_until("the worker", || read(&run.path("e")).len() >= 3);
    fs::copy(run.path("e"), run.path("e.1")).expect("it is there");
    File::options().write(true).truncate(true).open(run.path("e")).expect("it is there");
    run.setup.worker("behind", vec![]).run();
    run.ends(&mut child, Signal::INT, 0);
    let text = fs::read(run.path("e")).expect("it is there");
    assert!(!text.contains(&0), "a hole");
    assert_eq!(starts(&read(&run.path("e"))), [true]);
    assert_eq!(replayed(&run.path("e")).status.code(), Some(0));
}

#[test]
fn a_second_start_appends_unless_the_first_one_lives() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let run = Bench::new();
    let mut first = run.command(&["run", "--evidence", "e"]).spawn().expect("it runs");
    run.wait_for_start("e");
    let second = run.command(&["run", "--evidence", "e"]).stderr(Stdio::piped()).output();
    let second = second.expect("it runs");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{text}");
    let who = format!("another slashtrace writes it: pid {}, since 20", first.id());
    assert!(text.contains(&who) && text.contains("next step: "), "{text}");
    // Killed while it wrote.
    first.kill().expect("it runs");
    first.wait().expect("a child");
    let mut file = File::options().append(true).open(run.path("e")).expect("it is there");
    std::io::Write::write_all(&mut file, b"{\"v\":1,\"seq\":2,\"ti").expect("room");
    let mut third = run.command(&["run", "--evidence", "e"]).spawn().expect("it runs");
    run.wait_until("the third", || {
        let Ok(reader) = Reader::open(&run.path("e")) else { return false };
        reader.map_while(Result::ok).filter(|it| matches!(it.body, Body::Start(_))).count() == 2
    });
    run.ends(&mut third, Signal::INT, 0);
    assert_eq!(starts(&read(&run.path("e"))), [false, false]);
    let output = replayed(&run.path("e"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("the file holds 2 recordings"), "{text}");
    assert!(text.contains("recording 1 was not ended in order"), "{text}");
    assert!(text.contains("lines that were cut off when slashtrace was killed: 1"), "{text}");
    for (run_number, expected) in [("1", "cut off"), ("2", "interrupted")] {
        let report = Command::new(host::slashtrace())
            .args(["report", "--run", run_number])
            .arg(run.path("e"))
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(text.contains(expected), "{run_number}: {text}");
    }
}

#[test]
fn two_do_not_end_workers_of_one_profile() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let run = Bench::new();
    let enforce = |file: &'static str| ["run", "--policy=enforce", "--evidence", file];
    let mut first = run.command(&enforce("e")).spawn().expect("it runs");
    run.wait_for_start("e");
    let second = run.command(&enforce("f")).stderr(Stdio::piped()).output().expect("it runs");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{text}");
    let who = format!("another slashtrace ends workers of this profile: pid {}, since", first.id());
    assert!(text.contains(&who) && text.contains("next step: "), "{text}");
    // To watch is another thing.
    let mut watcher = run.command(&["run", "--evidence", "g"]).spawn().expect("it runs");
    run.wait_for_start("g");
    run.ends(&mut watcher, Signal::TERM, 0);
    run.ends(&mut first, Signal::TERM, 0);
}
