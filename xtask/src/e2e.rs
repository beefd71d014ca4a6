//! The end-to-end tests: which there are, what they need, and running them side by side.
//!
//! Each file of `tests/tests` is one test program. Each recording watches for workers of its own
//! token only, so that programs do not disturb each other, and most of their time is waiting: several
//! run at once. What a file needs to be different in stands in its module documentation: [`ALONE`],
//! [`UNHURRIED`] and [`IN_GUESTS`].

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    checkout, run,
    step::{self, STEP_LIMIT, Step},
};

/// The line in a file whose tests must have the machine for themselves.
const ALONE: &str = "//! Runs alone: ";
/// The line in a file whose tests need a core: they run when nothing is built any more, and no more of
/// them at once than there are cores.
const UNHURRIED: &str = "//! Runs when nothing is built: ";
/// The line in a file that `cargo xtask vm` runs on other kernels: it needs nothing but `subject`.
const IN_GUESTS: &str = "//! Runs in guests";
/// Files that take longest begin first, in this order; the rest follows by name.
const LONG: [&str; 9] = [
    "hermes_join",
    "hermes_enforce",
    "hermes_terminals",
    "hermes_findings",
    "hermes_between",
    "hermes_report",
    "cases",
    "reaping",
    "clients",
];

/// Where this is set, the tests of hermes-agent run on every version that is known, not only on some.
const EVERY_HERMES: &str = "SLASHTRACE_EVERY_HERMES";

/// Which to run. With SLASHTRACE_EVERY_HERMES=1 in the environment, hermes_between tests two more
/// versions of hermes-agent (six minutes).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files of tests/tests, without `.rs`; all of them if none is named.
    pub(crate) files: Vec<String>,
}

/// What may run at the same time as a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Beside {
    /// Anything.
    Anything,
    /// One other for each further core, and no build.
    Few,
    /// Nothing.
    Nothing,
}

/// A file of end-to-end tests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct File {
    /// Its name without `.rs`, which is that of the test program.
    pub(crate) name: String,
    /// What may run at the same time.
    beside: Beside,
    /// Whether it can run on other kernels.
    pub(crate) in_guests: bool,
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let says = |mark: &str| text.lines().any(|line| line.starts_with(mark));
        let beside = match () {
            () if says(ALONE) => Beside::Nothing,
            () if says(UNHURRIED) => Beside::Few,
            () => Beside::Anything,
        };
        Self { name: name.to_owned(), beside, in_guests: says(IN_GUESTS) }
    }

    /// Whether it tests against the real hermes-agent, which is downloaded.
    pub(crate) fn is_hermes(&self) -> bool {
        self.name.starts_with("hermes")
    }
}

/// Every file of `tests/tests`, those that take longest first.
pub(crate) fn files() -> Result<Vec<File>> {
    let folder = checkout::file("tests/tests");
    let mut files = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            files.push(File::new(&name, &text));
        }
    }
    files.sort_by_key(|file| {
        let long = LONG.iter().position(|&name| name == file.name);
        (long.unwrap_or(LONG.len()), file.name.clone())
    });
    Ok(files)
}

/// The test programs in what `cargo test --no-run --message-format json` prints, by name.
pub(crate) fn programs(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo prints JSON")?;
        let is_test = message["target"]["kind"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        if let (true, Some(name), Some(path)) =
            (is_test, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.push((name.to_owned(), path.into()));
        }
    }
    Ok(found)
}

/// Test programs that were built, and how they are run.
#[derive(Debug)]
pub(crate) struct Built {
    programs: Vec<(String, PathBuf)>,
    /// Where tests write why they were skipped.
    skips: PathBuf,
    /// Whether they run through sudo.
    sudo: bool,
}

/// Builds slashtrace and the test programs, as the unit tests are built: of the same crates with the
/// same features.
pub(crate) fn build(skips: &Path) -> Result<Built> {
    let arguments = ["test", "--workspace", "--no-run"];
    let messages = step::output_of(checkout::cargo(&arguments).arg("--message-format=json"))?;
    let programs = programs(&messages)?;
    ensure!(!programs.is_empty(), "cargo built no test program");
    // Without a password prompt: this may be a script's. If it fails, the tests say so.
    let sudo = !run::is_root()? && step::output(Command::new("sudo").args(["-n", "true"])).is_ok();
    if !sudo && !run::is_root()? {
        eprintln!("    not root, and sudo asks for a password: tests that need root are skipped");
    }
    Ok(Built { programs, skips: skips.to_owned(), sudo })
}

impl Built {
    fn command(&self, file: &File) -> Result<Command> {
        let found = self.programs.iter().find(|(name, _)| *name == file.name);
        let (_, program) = found.with_context(|| format!("cargo built no {}", file.name))?;
        let mut command = if self.sudo {
            let mut sudo = Command::new("sudo");
            let kept = "--preserve-env=PATH,CARGO,SLASHTRACE_SKIP_LOG,SLASHTRACE_BINARY";
            sudo.args(["-n", &format!("{kept},{EVERY_HERMES}")]);
            sudo.arg("--").arg(program);
            sudo
        } else {
            Command::new(program)
        };
        // One after the other within a file: each runs a tracer of the whole machine.
        command.arg("--test-threads=1").current_dir(checkout::file("tests"));
        command.env("SLASHTRACE_SKIP_LOG", &self.skips);
        // It was just built: the programs need not call cargo, which waits for its own lock.
        command.env("SLASHTRACE_BINARY", checkout::target().join("debug/slashtrace"));
        if let Some(cargo) = env::var_os("CARGO") {
            command.env("CARGO", cargo);
        }
        Ok(command)
    }

    /// Runs one file; what it prints goes to a log, and from there to stderr, whole, when it ends.
    fn run(&self, file: &File) -> Step {
        step::quietly(&format!("test {}", file.name), |log| {
            step::logged_within(STEP_LIMIT, &mut self.command(file)?, log)
        })
    }

    /// Runs those files beside which what `beside` says may run, and as many at once as it says.
    pub(crate) fn run_those(&self, files: &[File], beside: Beside) -> Vec<Step> {
        let those: Vec<&File> = files.iter().filter(|file| file.beside == beside).collect();
        side_by_side(at_once(beside), &those, |file| self.run(file))
    }
}

/// How many test programs run at once. Most of them wait most of the time.
fn at_once(beside: Beside) -> usize {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    match beside {
        Beside::Anything => 2 * cores,
        Beside::Few => cores,
        Beside::Nothing => 1,
    }
}

/// Does `work` for each item, at most `at_once` of them at the same time, in order of their begin;
/// the results are in the order of the items.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    at_once: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let waiting = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                loop {
                    let next = step::locked(&waiting).next();
                    let Some((number, item)) = next else { return };
                    let result = work(item);
                    step::locked(&done).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|&(number, _)| number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Names of files for a message.
pub(crate) fn names(files: &[File]) -> String {
    files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_file_says_itself_how_it_runs() {
        let file = File::new("storm", "//! A storm.\n//!\n//! Runs alone: it fills the machine.\n");
        assert!(file.beside == Beside::Nothing && !file.in_guests);
        let file = File::new("tabs", "//! Tabs.\n//!\n//! Runs when nothing is built: slow.\n");
        assert_eq!(file.beside, Beside::Few);
        let file = File::new("calls", "//! Calls.\n//!\n//! Runs in guests.\n// Runs alone: no\n");
        assert!(file.beside == Beside::Anything && file.in_guests);
    }

    #[test]
    fn there_are_files_and_the_long_ones_begin() {
        let files = files().expect("the checkout is here");
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names[..LONG.len()], LONG);
        assert!(files.iter().any(|file| file.in_guests));
        for beside in [Beside::Anything, Beside::Few, Beside::Nothing] {
            assert!(files.iter().any(|file| file.beside == beside), "{beside:?}");
        }
    }

    #[test]
    fn test_programs_are_found_among_what_cargo_prints() {
        let messages = r#"noise
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":"/t/a-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"calls"},"executable":"/t/calls-1"}
{"reason":"build-finished","success":true}"#;
        let found = programs(messages).expect("it is JSON");
        assert_eq!(found, [("calls".to_owned(), PathBuf::from("/t/calls-1"))]);
    }

    #[test]
    fn no_more_than_asked_for_run_at_once_and_each_runs_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items: Vec<usize> = (0..20).collect();
        let results = side_by_side(3, &items, |&item| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            item
        });
        assert_eq!(results, items);
        assert!((2..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}
