use std::{
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Recording, slashtrace_path, wait_until};

/// How long the tracer may take until all its hooks are attached.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// The real tracer, watching. Ended when dropped.
#[derive(Debug)]
pub struct Recorder {
    child: Option<Child>,
    folder: TempDir,
}

impl Recorder {
    /// Runs `slashtrace run --quiet --evidence FILE ARGUMENTS` and waits until it watches: its
    /// `start` record is written once all hooks are attached.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stderr = fs::File::create(folder.path().join("stderr")).expect("a file for stderr");
        let child = Command::new(slashtrace_path())
            .args(["run", "--quiet", "--evidence"])
            .arg(folder.path().join("evidence.ndjson"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("slashtrace can be started");
        let mut recorder = Self { child: Some(child), folder };
        recorder.wait_for_start();
        recorder
    }

    fn wait_for_start(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let first = self.text().split_once('\n').map(|(line, _)| line.to_owned());
            if let Some(first) = first {
                assert!(first.contains("\"type\":\"start\""), "first record: {first}");
                return;
            }
            let status = self.running().try_wait().expect("the tracer is a child");
            if let Some(status) = status {
                self.child = None;
                panic!("slashtrace ended before it watched: {status}\n{}", self.stderr());
            }
            assert!(Instant::now() < deadline, "no start record\n{}", self.stderr());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id of the tracer.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the tracer runs until it is stopped").id()
    }

    /// The evidence file.
    pub fn evidence(&self) -> PathBuf {
        self.folder.path().join("evidence.ndjson")
    }

    /// What the tracer said so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// What it has written so far, whole lines only.
    pub fn so_far(&self) -> Recording {
        let text = self.text();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        Recording::parse(&text[..whole])
    }

    /// Waits until the evidence so far satisfies `look`, and returns what that found.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Recording) -> Option<T>,
    ) -> T {
        let mut size = u64::MAX;
        wait_until(what, limit, || {
            // Parsing a long recording 50 times a second would disturb what is measured.
            let now = fs::metadata(self.evidence()).map(|meta| meta.len()).unwrap_or_default();
            if now == std::mem::replace(&mut size, now) {
                return None;
            }
            look(&self.so_far())
        })
    }

    /// Ends the tracer with SIGINT, checks that it ends well, and reads what it wrote.
    pub fn stop(self) -> Recording {
        let (status, stderr, recording) = self.stop_with_status();
        assert_eq!(status.code(), Some(0), "slashtrace: {status}\n{stderr}");
        recording
    }

    /// As [`Recorder::stop`], for tests that expect another exit code: also the status and stderr.
    pub fn stop_with_status(mut self) -> (ExitStatus, String, Recording) {
        let mut child = self.child.take().expect("the tracer runs until it is stopped");
        send(&child, Signal::INT);
        let Some(status) = wait(&mut child, STOP_LIMIT) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("slashtrace did not end within {STOP_LIMIT:?}\n{}", self.stderr());
        };
        assert_eq!(status.signal(), None, "slashtrace: {status}\n{}", self.stderr());
        (status, self.stderr(), Recording::parse(&self.text()))
    }

    fn running(&mut self) -> &mut Child {
        self.child.as_mut().expect("the tracer runs until it is stopped")
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.evidence()) {
            file.read_to_string(&mut text).expect("evidence is UTF-8");
        }
        text
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A test that panicked: the tracer must not watch the next one.
        if let Some(mut child) = self.child.take() {
            send(&child, Signal::INT);
            if wait(&mut child, Duration::from_secs(5)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if thread::panicking() {
                eprintln!("slashtrace said:\n{}", self.stderr());
            }
        }
    }
}

/// Signals a child that was not reaped yet, so that its pid is still its own.
pub(crate) fn send(child: &Child, signal: Signal) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits for a child that may hang.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("it is a child") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
