//! Running things with a line before and after, and a time.

use std::{
    fmt,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::checkout;

/// A step that takes longer hangs.
pub(crate) const STEP_LIMIT: Duration = Duration::from_mins(25);

/// How a step ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It did what it should.
    Done,
    /// There was nothing to do.
    AlreadyThere,
    /// It was not run, and why.
    Skipped(String),
    /// It failed, and why.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ok"),
            Self::AlreadyThere => f.write_str("ok (was there)"),
            Self::Skipped(why) => write!(f, "SKIPPED: {why}"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// One step of a command, after it was run.
#[derive(Debug)]
pub(crate) struct Step {
    /// What it is, for people.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Wall time.
    pub(crate) took: Duration,
}

/// Runs a step that says much itself: a line before it and one after it. A failure is an outcome.
pub(crate) fn run(name: &str, body: impl FnOnce() -> Result<Outcome>) -> Step {
    eprintln!("==> {name}");
    let started = Instant::now();
    let outcome = body().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    let took = started.elapsed();
    eprintln!("    {name}: {outcome} ({})", seconds(took));
    Step { name: name.to_owned(), outcome, took }
}

/// Runs a step beside others: its output goes to a log, and to stderr when it ends, in one piece.
pub(crate) fn quietly(name: &str, body: impl FnOnce(&Path) -> Result<Outcome>) -> Step {
    eprintln!("==> {name}: begins");
    let started = Instant::now();
    let file: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let folder = checkout::target().join("step-logs");
    let log = folder.join(format!("{file}.log"));
    let made = fs::create_dir_all(&folder).and_then(|()| fs::write(&log, ""));
    let outcome = made
        .with_context(|| format!("cannot write {}", log.display()))
        .and_then(|()| body(&log))
        .unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    let took = started.elapsed();
    let said = fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    // One write: those of other steps do not come between.
    eprintln!("==> {name}\n{}\n    {name}: {outcome} ({})", said.trim_end(), seconds(took));
    Step { name: name.to_owned(), outcome, took }
}

/// A lock whose holder may have panicked: what it guards is whole all the same.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a step that the rest cannot do without: a line once it is done.
pub(crate) fn must(name: &str, body: impl FnOnce() -> Result<Outcome>) -> Result<()> {
    let started = Instant::now();
    let outcome = body().with_context(|| name.to_owned())?;
    eprintln!("    {name}: {outcome} ({})", seconds(started.elapsed()));
    Ok(())
}

/// Runs a command to its end, its output shown; fails unless it exits with 0.
pub(crate) fn call(command: &mut Command) -> Result<Outcome> {
    let shown = show(command);
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{shown}`"))?;
    if status.success() { Ok(Outcome::Done) } else { bail!("`{shown}` ended with {status}") }
}

/// As [`call`], but ends the command and everything below it once `limit` is over.
pub(crate) fn call_within(limit: Duration, command: &mut Command) -> Result<Outcome> {
    let shown = show(command);
    let child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    await_end(limit, child, &shown)
}

/// As [`call_within`], with the output in a file, behind what is there.
pub(crate) fn logged_within(limit: Duration, command: &mut Command, log: &Path) -> Result<Outcome> {
    let file = File::options().append(true).create(true).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    call_within(limit, command)
}

fn await_end(limit: Duration, mut child: Child, shown: &str) -> Result<Outcome> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(Outcome::Done);
            }
            bail!("`{shown}` ended with {status}");
        }
        if Instant::now() > deadline {
            let below = descendants(child.id());
            child.kill()?;
            child.wait()?;
            for pid in below {
                // Best effort: one that ended by itself meanwhile is no error.
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
            }
            bail!("`{shown}` took longer than {} and was ended", seconds(limit));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a command, shows what it says on stderr, and returns what it printed.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let Output { status, stdout, .. } =
        output.with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The same command for when nothing else wants the processor.
pub(crate) fn nice(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    nice
}

/// Runs a command and returns what it printed, without showing it.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A length of time for people.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(100) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

fn show(command: &Command) -> String {
    // Not the whole path: cargo's own is long and says nothing.
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut text = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Processes below `pid`, from /proc/PID/task/PID/children, nearest first.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            found.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
        }
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_with_what_it_started() {
        // The shell's child has another parent once the shell is gone; it must be ended as well.
        let marker = std::process::id();
        let script = format!("sleep 61.{marker} & wait");
        let started = Instant::now();
        let error =
            call_within(Duration::from_millis(700), Command::new("sh").args(["-c", &script]))
                .expect_err("it hangs");
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
        let still = || {
            fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
                fs::read(entry.path().join("cmdline"))
                    .is_ok_and(|argv| argv == format!("sleep\x0061.{marker}\0").as_bytes())
            })
        };
        // A process that was sent SIGKILL still takes a moment to be gone.
        let patience = Instant::now() + Duration::from_secs(20);
        while still() {
            assert!(Instant::now() < patience, "the sleep outlived its shell");
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = call(Command::new("sh").args(["-c", "exit 3"])).expect_err("exit 3");
        assert!(error.to_string().contains("sh -c exit 3"), "{error}");
        assert!(error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
