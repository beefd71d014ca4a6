//! Runs slashtrace on a profile that matches this recording's processes only, so that tests that
//! run at the same time do not see each other.

use std::{
    fs::{self, File},
    io::BufReader,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::{
    evidence,
    model::{Body, Record},
};
use tempfile::TempDir;

use crate::{Program, Recorded, Step, host, recorded};

/// How long slashtrace may take to attach its hooks, and to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// How to record.
#[derive(Debug)]
pub struct Setup {
    sensor: &'static str,
    flags: Vec<String>,
    profile: Option<String>,
    uid: Option<u32>,
    token: String,
}

impl Default for Setup {
    fn default() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let token = format!("slashtrace_test.worker_{}_{number}", process::id());
        Self { sensor: "ebpf", flags: Vec::new(), profile: None, uid: None, token }
    }
}

impl Setup {
    /// With kernel programs, as root.
    pub fn ebpf() -> Self {
        Self::default()
    }

    /// From /proc alone, as this user.
    pub fn poll_as(uid: u32) -> Self {
        Self { sensor: "poll", uid: Some(uid), ..Self::default() }
    }

    /// With this flag of `slashtrace run`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// With this profile (TOML) instead of the recording's own; empty for the built-in one.
    #[must_use]
    pub fn profile(mut self, text: impl Into<String>) -> Self {
        self.profile = Some(text.into());
        self
    }

    /// The token behind `-m` that makes a process a worker of this recording.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A worker of this recording, for a moment at which it has not started.
    pub fn worker(&self, session: &str, steps: Vec<Step>) -> Program {
        worker(&self.token, session, steps)
    }

    /// The profile of this recording: short graces, and its own token.
    pub fn own_profile(&self) -> String {
        own_profile(&self.token)
    }

    /// As another one, whose worker token it takes over: it watches the same processes.
    #[must_use]
    pub fn watching_for(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Starts slashtrace and waits until it watches.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(self) -> Recording {
        let folder = tempfile::tempdir().expect("a folder for the evidence");
        let profile = folder.path().join("profile.toml");
        let text = self.profile.unwrap_or_else(|| own_profile(&self.token));
        fs::write(&profile, &text).expect("the profile can be written");
        let own = text.contains(&self.token);

        let mut binary = host::slashtrace().to_owned();
        if let Some(uid) = self.uid {
            // The checkout may be out of another user's reach.
            let copy = folder.path().join("slashtrace");
            fs::copy(&binary, &copy).expect("the binary can be copied");
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
                .expect("the folder is ours");
            chown(folder.path(), Some(uid), None).expect("root can give a folder away");
            binary = copy;
        }
        let file = folder.path().join("evidence.ndjson");
        let stderr = folder.path().join("stderr");
        let mut command = Command::new(binary);
        if !text.is_empty() {
            command.arg("--profile").arg(&profile);
        }
        command
            // Others that end workers of the same profile are tests, too.
            .env("SLASHTRACE_RUNTIME_DIR", folder.path())
            .args(["run", "--sensor", self.sensor, "--quiet", "--evidence"])
            .arg(&file)
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("a file for stderr"));
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let child = command.spawn().expect("slashtrace runs");
        let mut recording =
            Recording { child, token: self.token, file, stderr, folder: Some(folder), own };
        recording.wait_until_it_watches();
        recording
    }
}

fn worker(token: &str, session: &str, steps: Vec<Step>) -> Program {
    Program::new("python3", steps)
        .arg("-m")
        .arg(token)
        .arg("--session-key")
        .arg(session)
        .arg("--model")
        .arg("test-model")
}

fn own_profile(token: &str) -> String {
    format!(
        r#"
name = "test"
[worker]
tokens = ["-m", "{token}"]
session_flag = "--session-key"
model_flag = "--model"
channel = "stdin"
[graces]
overlap = "1s"
orphan = "2s"
unreachable = "2s"
zombie = "2s"
[windows]
churn = "1m"
accumulation = "1m"
"#
    )
}

/// A running slashtrace.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    token: String,
    file: PathBuf,
    stderr: PathBuf,
    folder: Option<TempDir>,
    /// Whether it knows only workers of its own test. With another profile it sees those of others,
    /// too, which are not its to end.
    own: bool,
}

impl Recording {
    /// Starts one with kernel programs and the recording's own profile.
    pub fn start() -> Self {
        Setup::ebpf().start()
    }

    /// The token behind `-m` that makes a process a worker of this recording.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A worker of this recording.
    pub fn worker(&self, session: &str, steps: Vec<Step>) -> Program {
        worker(&self.token, session, steps)
    }

    /// Waits until what was written so far satisfies `enough`.
    ///
    /// # Panics
    /// If it does not in `patience`; says what was written.
    pub fn wait_for(&self, what: &str, patience: Duration, enough: impl Fn(&[Record]) -> bool) {
        let patience = host::patience(patience);
        let end = Instant::now() + patience;
        loop {
            let records = self.so_far();
            if enough(&records) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not within {patience:?}: {what}\n{}",
                recorded::tell(&records)
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every whole record so far.
    pub fn so_far(&self) -> Vec<Record> {
        let Ok(file) = File::open(&self.file) else { return Vec::new() };
        evidence::Reader::new(BufReader::new(file)).map_while(Result::ok).collect()
    }

    /// Stops slashtrace with SIGINT and checks what must hold for every recording: it ends with
    /// exit code 0 (3 where it says that a worker could not be judged) and a whole file, every line is as the schema says, a replay gives the same
    /// findings byte for byte, and nothing was lost.
    ///
    /// # Panics
    /// If anything of that does not hold.
    pub fn stop(self) -> Recorded {
        let (file, folder) = self.end(0);
        Recorded::check(&file, folder)
    }

    /// As [`Self::stop`], of a recording that missed something: it says so, with exit code 3.
    ///
    /// # Panics
    /// If it does not, or if anything else of that does not hold.
    pub fn stop_incomplete(self) -> Recorded {
        let (file, folder) = self.end(3);
        Recorded::check_incomplete(&file, folder)
    }

    /// Kills slashtrace (SIGKILL) and leaves everything else as it is.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(mut self) -> Vec<Record> {
        self.child.kill().expect("slashtrace is running");
        self.child.wait().expect("a child can be waited for");
        let records = self.so_far();
        self.folder = None;
        records
    }

    /// Thread group id of slashtrace.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops slashtrace in its tracks, or lets it go on.
    ///
    /// # Panics
    /// If it is not running.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).expect("slashtrace is running");
    }

    fn end(mut self, code: i32) -> (PathBuf, TempDir) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("slashtrace is running");
        let status = self.wait();
        // Whether a worker could not be judged is what a replay says.
        let ended = status.code().map(|ended| if code == 0 && ended == 3 { 0 } else { ended });
        let told = self.told();
        assert_eq!(ended, Some(code), "slashtrace ended with {status}\n{told}");
        // Exit code 3 says this, too.
        assert!(!told.contains("its evidence has no `stop`"), "{told}");
        self.end_leftovers();
        (self.file.clone(), self.folder.take().expect("only this takes it"))
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + host::patience(PATIENCE);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < end, "slashtrace does not end\n{}", self.told());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_it_watches(&mut self) {
        let end = Instant::now() + host::patience(PATIENCE);
        while self.so_far().is_empty() {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("slashtrace ended with {status} before it watched\n{}", self.told());
            }
            assert!(Instant::now() < end, "slashtrace does not watch\n{}", self.told());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end_leftovers(&self) {
        if self.own {
            end_leftovers(&self.so_far());
        }
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.folder.is_some() {
            // A test failed before it stopped the recording.
            drop(self.child.kill());
            drop(self.child.wait());
            self.end_leftovers();
        }
    }
}

/// Ends the workers and descendants that are still there: orphans have nobody else who does. By
/// pid and start time, so that nobody else is hit.
fn end_leftovers(records: &[Record]) {
    for record in records {
        if let Body::Spawn(spawn) = &record.body
            && !spawn.inherited
            && start_ns(spawn.pid).is_some_and(|start| start.abs_diff(spawn.start_ns) <= tick_ns())
            && let Some(pid) = Pid::from_raw(spawn.pid.cast_signed())
        {
            // It may end in this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// Start of a process, ns of the boot clock, as /proc/PID/stat has it (a whole tick).
fn start_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks * tick_ns())
}
