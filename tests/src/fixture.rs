use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{TestProfile, checkout, recorder, unique};

/// One line of what a fixture did.
#[derive(Clone, Debug)]
pub struct Done(Value);

impl Done {
    /// The scenario: `lost`.
    pub fn scenario(&self) -> &str {
        self.0["scenario"].as_str().expect("each line has a scenario")
    }

    /// What it did: `spawn`, `close`, `expect`, …
    pub fn did(&self) -> &str {
        self.0["did"].as_str().expect("each line has what was done")
    }

    /// The process that it was done to.
    pub fn pid(&self) -> Option<u32> {
        self.0["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// The gateway that it was done by.
    pub fn gateway(&self) -> Option<u32> {
        self.0["gateway"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// The session that it was done in.
    pub fn session(&self) -> Option<&str> {
        self.0["session"].as_str()
    }

    /// The processes of an `expect` or `left` line.
    pub fn pids(&self) -> Vec<u32> {
        let list = self.0["pids"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_u64).filter_map(|pid| pid.try_into().ok()).collect()
    }

    /// The finding of an `expect` line: a kind's name, or none for silence.
    pub fn kind(&self) -> Option<&str> {
        self.0["kind"].as_str()
    }

    /// When, ns of the boot clock.
    pub fn boottime_ns(&self) -> u64 {
        self.0["boottime_ns"].as_u64().expect("each line has a time")
    }
}

/// A fixture that prints what it does as JSON lines. Ended when dropped; it then ends, by pid, what
/// it started.
#[derive(Debug)]
pub(crate) struct Fixture {
    child: Child,
    reader: Option<JoinHandle<()>>,
    done: Arc<Mutex<Vec<Done>>>,
    name: &'static str,
}

impl Fixture {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("its stdout is piped"));
        let done = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&done);
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                lines.lock().expect("no holder panics").push(Done(value));
            }
        });
        Self { child, reader: Some(reader), done, name }
    }

    pub(crate) fn done(&self) -> Vec<Done> {
        self.done.lock().expect("no holder panics").clone()
    }

    pub(crate) fn finish(mut self, limit: Duration) -> Vec<Done> {
        let status = recorder::wait(&mut self.child, limit)
            .unwrap_or_else(|| panic!("{} did not end within {limit:?}", self.name));
        assert!(status.success(), "{}: {status}", self.name);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("each line is JSON");
        }
        self.done()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            recorder::send(&self.child, Signal::TERM);
            if recorder::wait(&mut self.child, Duration::from_secs(10)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// The bundled leaky gateway (`fixtures/leaky_gateway`).
#[derive(Debug)]
pub struct LeakyGateway(Fixture);

impl LeakyGateway {
    /// Plays scenarios, separated by commas, with workers that only `profile` matches. Times are
    /// `pace` times those of the demo, whose graces a [`TestProfile`] has.
    pub fn start(profile: &TestProfile, scenarios: &str, pace: f64) -> Self {
        let mut command = Command::new("python3");
        command
            .arg(checkout::fixture("leaky_gateway/gateway.py"))
            .args(["--scenario", scenarios, "--pace", &pace.to_string()])
            .args(["--module", profile.module(), "--tag", &unique("test")]);
        Self(Fixture::start("the leaky gateway", &mut command))
    }

    /// What it did so far.
    pub fn done(&self) -> Vec<Done> {
        self.0.done()
    }

    /// Waits until it has played everything, and returns what it did.
    pub fn finish(self) -> Vec<Done> {
        self.0.finish(Duration::from_mins(3))
    }

    /// Process id of its first process, the dashboard.
    pub fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// Ends it early, with SIGTERM.
    pub fn end(self) {}
}
