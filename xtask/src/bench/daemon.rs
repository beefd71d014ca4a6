//! Slashtrace under measurement, and the gateway that it watches.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Bench,
    evidence::{self, Counts},
    process,
};

/// How long anything may take that usually takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// Short windows, so that they pass while somebody waits for the figures.
const SHORT: &str = "[graces]\noverlap = \"1s\"\norphan = \"1s\"\nzombie = \"2s\"\n\
                     [windows]\nchurn = \"2s\"\naccumulation = \"4s\"\n";

/// How long after a storm every window of [`SHORT`] has passed, and the minute for which workers that
/// have ended are kept in any case, with the ten seconds in which what is due is forgotten together.
pub(crate) const WINDOWS: Duration = Duration::from_secs(75);

static RUN: AtomicU32 = AtomicU32::new(0);

/// `slashtrace run`, watching for workers of a token that nobody else uses.
pub(crate) struct Daemon {
    child: Child,
    /// Where its evidence is.
    pub(crate) evidence: PathBuf,
}

impl Daemon {
    /// Starts it and waits until its hooks are attached.
    pub(crate) fn start(bench: &Bench) -> Result<Self> {
        let (arguments, evidence) = arguments(bench)?;
        let mut command = Command::new(&bench.program);
        let child = command.args(arguments).stdin(Stdio::null()).spawn().context("slashtrace")?;
        let mut daemon = Self { child, evidence };
        let begun = Instant::now();
        while fs::metadata(&daemon.evidence).map_or(0, |file| file.len()) == 0 {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("slashtrace ended with {status} before it watched");
            }
            ensure!(begun.elapsed() < PATIENCE, "slashtrace does not watch");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of evidence so far.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(&self.evidence).map_or(0, |file| file.len())
    }

    /// Waits until it has caught up: whenever it is looked at for a second it sleeps, and its
    /// evidence does not grow. One that waits for a CPU is not asleep, however busy the machine is.
    /// False if that took longer than `most`.
    pub(crate) fn catch_up(&self, most: Duration) -> Result<bool> {
        const LOOK: Duration = Duration::from_millis(50);
        let begun = Instant::now();
        let (mut bytes, mut quiet) = (self.bytes(), 0);
        while quiet < 20 {
            if begun.elapsed() > most {
                return Ok(false);
            }
            thread::sleep(LOOK);
            let asleep = process::state(self.pid()).context("slashtrace is gone")? == 'S';
            let now = self.bytes();
            let grown = now != bytes;
            bytes = now;
            // It may wake up for a moment because time passes.
            quiet = match (asleep, grown) {
                (true, false) => quiet + 1,
                (false, false) => quiet - quiet.min(5),
                _ => 0,
            };
        }
        Ok(true)
    }

    /// Ends it in order, and counts what it wrote. The evidence is removed.
    pub(crate) fn stop(mut self) -> Result<Counts> {
        process::signal("-TERM", self.pid())?;
        // What was not judged yet is judged before it ends.
        let deadline = Instant::now() + 20 * PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "slashtrace does not end");
            thread::sleep(Duration::from_millis(20));
        }
        evidence::count(&self.evidence)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.evidence);
    }
}

/// Arguments of a run with a new file for its evidence.
pub(crate) fn arguments(bench: &Bench) -> Result<(Vec<String>, PathBuf)> {
    let evidence = bench.folder.join(format!("{}.ndjson", RUN.fetch_add(1, Ordering::Relaxed)));
    if evidence.exists() {
        fs::remove_file(&evidence)?;
    }
    let profile = bench.folder.join("profile.toml");
    let text = format!(
        "name = \"bench\"\n[worker]\ntokens = [\"-m\", \"{}\"]\nsession_flag = \"--session-key\"\n\
         channel = \"stdin\"\nmodel_flag = \"--model\"\n{SHORT}",
        bench.token
    );
    fs::write(&profile, text).with_context(|| format!("cannot write {}", profile.display()))?;
    let shown = |path: &Path| path.display().to_string();
    let arguments = ["--profile", &shown(&profile), "run", "--quiet", "--sensor", "ebpf"];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    arguments.extend(["--evidence".to_owned(), shown(&evidence)]);
    Ok((arguments, evidence))
}

/// A gateway of tests/benches/storm/spawner.c.
pub(crate) struct Spawner {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Spawner {
    /// One that starts lives when it is asked to: of workers, or of processes that are none.
    pub(crate) fn burst(bench: &Bench, workers: bool) -> Result<Self> {
        let token = if workers { bench.token.as_str() } else { "somebody.else" };
        Self::run(bench, "burst", token, &[])
    }

    /// One with `count` workers that stay until it is dropped, all started.
    pub(crate) fn hold(bench: &Bench, count: u64) -> Result<Self> {
        let mut spawner = Self::run(bench, "hold", &bench.token, &[count.to_string()])?;
        ensure!(spawner.line()? == "ready", "not all workers could be started");
        Ok(spawner)
    }

    /// One that starts a command, and then one life after the other; with the command's pid and
    /// when it was started, ns of the boot clock.
    pub(crate) fn drip(bench: &Bench, command: &[String]) -> Result<(Self, u32, u64)> {
        let mut spawner = Self::run(bench, "drip", &bench.token, command)?;
        let line = spawner.line()?;
        let (pid, began) = line.split_once(' ').context("no pid and time")?;
        Ok((spawner, pid.parse()?, began.parse()?))
    }

    fn run(bench: &Bench, how: &str, token: &str, more: &[String]) -> Result<Self> {
        let mut command = Command::new(bench.tool("spawner"));
        command.arg(how).arg(bench.tool("worker")).arg(token).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the spawner")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, input, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the spawner ended");
        Ok(line.trim().to_owned())
    }

    /// That many lives, one after the other, in that many sessions; how long they took.
    pub(crate) fn lives(&mut self, lives: u64, sessions: u64) -> Result<Duration> {
        let input = self.input.as_mut().context("the spawner's stdin is closed")?;
        writeln!(input, "{lives} {sessions}")?;
        input.flush()?;
        Ok(Duration::from_nanos(self.line()?.parse()?))
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // The end of its stdin is the end of it and of its workers.
        self.input.take();
        let _ = self.child.wait();
    }
}
