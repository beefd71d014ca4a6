//! `cargo xtask test`: everything that must hold, and a summary that says what was not looked at.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    apt, checkout, run, setup,
    step::{self, Outcome, Step},
    vm,
};

/// A step that takes longer hangs.
const STEP_LIMIT: Duration = Duration::from_mins(25);

/// A network that swallows packets is none.
const FETCH_LIMIT: Duration = Duration::from_mins(1);

/// Looks at what is linked and built with.
const DENY: setup::Tool = setup::Tool { name: "cargo-deny", version: "0.20.2" };

/// What to test.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests against the real hermes-agent, which download it from PyPI, and those on
    /// other kernels, which download these.
    #[arg(long)]
    fast: bool,
}

/// Runs every step, also behind one that failed, and sums up.
pub(crate) fn test(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut steps = vec![step::run("set-up", || setup::everything().map(|()| Outcome::Done))];
    if matches!(steps[0].outcome, Outcome::Failed(_)) {
        return Ok(sum_up(&steps, &[], started.elapsed()));
    }

    let mut cargo = |name: &str, arguments: &[&str]| {
        steps.push(step::run(name, || {
            step::call_within(STEP_LIMIT, &mut checkout::cargo(arguments))
        }));
    };
    cargo("format", &["fmt", "--all", "--check"]);
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.push(step::run("clippy (kernel programs)", clippy_for_bpf));
    steps.push(step::run("docs", docs));
    steps.push(step::run(&format!("cargo-deny {} in .tools", DENY.version), || DENY.install()));
    steps.push(step::run("licences and sources (cargo-deny)", || {
        step::call_within(STEP_LIMIT, &mut deny(&["check", "licenses", "bans", "sources"]))
    }));
    steps.push(step::run("advisories (cargo-deny)", advisories));
    steps.push(step::run("unit, snapshot and property tests", || {
        let arguments = ["test", "--workspace", "--exclude", "slashtrace-tests"];
        step::call_within(STEP_LIMIT, &mut checkout::cargo(&arguments))
    }));

    steps.push(step::run("Chromium, which report.html is opened in", chromium));
    steps.push(step::run("jq, for the recipes of docs/EVIDENCE.md", || {
        packaged(&["jq"], ("jq", "jq"))
    }));
    let skips = Skips::new()?;
    let (hermes, other) = end_to_end_files()?;
    steps.push(step::run("end-to-end tests", || end_to_end(&other, &skips)));
    steps.push(step::run("end-to-end tests with the real hermes-agent", || {
        if args.fast {
            return Ok(Outcome::Skipped("--fast".to_owned()));
        }
        end_to_end(&hermes, &skips)
    }));
    if args.fast {
        let outcome = Outcome::Skipped("--fast".to_owned());
        steps.push(step::run("other kernels in qemu", || Ok(outcome)));
    } else {
        steps.extend(vm::vm()?);
    }
    Ok(sum_up(&steps, &skips.read()?, started.elapsed()))
}

/// The kernel programs compile for the BPF target only, where a plain clippy does not look.
fn clippy_for_bpf() -> Result<Outcome> {
    let mut command = checkout::cargo(&[
        "clippy",
        "--package",
        "slashtrace-ebpf",
        "--release",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--",
        "-D",
        "warnings",
    ]);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    step::call_within(STEP_LIMIT, &mut command)
}

fn docs() -> Result<Outcome> {
    let mut command = checkout::cargo(&["doc", "--workspace", "--no-deps"]);
    step::call_within(STEP_LIMIT, command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn chromium() -> Result<Outcome> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    packaged(&names, ("chromium", "chromium"))
}

/// A program by one of these names, or else from a package.
fn packaged(names: &[&str], package: (&str, &str)) -> Result<Outcome> {
    if names.iter().any(|name| apt::find(name).is_some()) {
        return Ok(Outcome::AlreadyThere);
    }
    Ok(match apt::provide(&[package])? {
        None => Outcome::Done,
        Some(why) => Outcome::Skipped(why),
    })
}

fn deny(arguments: &[&str]) -> Command {
    let mut command = Command::new(DENY.path());
    command.args(["--log-level", "error"]).args(arguments).current_dir(checkout::root());
    command
}

/// The database of advisories is on GitHub, which not every machine reaches.
fn advisories() -> Result<Outcome> {
    let mut fetch = deny(&["fetch", "db"]);
    match step::call_within(FETCH_LIMIT, fetch.stderr(Stdio::null())) {
        Ok(_) => step::call_within(STEP_LIMIT, &mut deny(&["check", "advisories"])),
        Err(_) => Ok(Outcome::Skipped(
            "the advisory database cannot be fetched from GitHub here".to_owned(),
        )),
    }
}

/// Names of the end-to-end test files: those for the real hermes-agent, and all others.
fn end_to_end_files() -> Result<(Vec<String>, Vec<String>)> {
    let folder = checkout::file("tests/tests");
    let mut names = BTreeSet::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    Ok(names.into_iter().partition(|name| name.starts_with("hermes")))
}

/// Each file is one test program; its tests run one after the other, because each runs a tracer of
/// the whole machine and starts thousands of processes.
fn end_to_end(files: &[String], skips: &Skips) -> Result<Outcome> {
    if files.is_empty() {
        return Ok(Outcome::Skipped("there are none".to_owned()));
    }
    step::call(&mut checkout::cargo(&["build", "--package", "slashtrace"]))?;
    let mut command = checkout::cargo(&["test", "--package", "slashtrace-tests", "--no-fail-fast"]);
    for file in files {
        command.args(["--test", file]);
    }
    command.args(["--", "--test-threads=1"]);
    command.env("SLASHTRACE_SKIP_LOG", &skips.file);
    if !run::is_root()? {
        // Without a password prompt: this may be a script's. If it fails, the tests say so.
        if step::output(Command::new("sudo").args(["-n", "true"])).is_ok() {
            let target = env::consts::ARCH.to_uppercase();
            command.env(
                format!("CARGO_TARGET_{target}_UNKNOWN_LINUX_GNU_RUNNER"),
                "sudo -n --preserve-env=PATH,SLASHTRACE_SKIP_LOG",
            );
        } else {
            eprintln!(
                "    not root, and sudo asks for a password: tests that need root are skipped"
            );
        }
    }
    step::call_within(STEP_LIMIT, &mut command)
}

/// Where tests write why they were skipped, a line each.
struct Skips {
    file: PathBuf,
}

impl Skips {
    fn new() -> Result<Self> {
        let file = checkout::target().join("skipped-tests.log");
        fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file })
    }

    fn read(&self) -> Result<Vec<String>> {
        let text = read(&self.file)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Sums up steps that are no part of a test run.
pub(crate) fn sum_up_alone(steps: &[Step]) -> ExitCode {
    sum_up(steps, &[], steps.iter().map(|step| step.took).sum())
}

fn sum_up(steps: &[Step], skipped_tests: &[String], took: Duration) -> ExitCode {
    eprintln!("\n{}", summary(steps, skipped_tests, took));
    let failed = steps.iter().any(|step| matches!(step.outcome, Outcome::Failed(_)));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn summary(steps: &[Step], skipped_tests: &[String], took: Duration) -> String {
    let names = steps.iter().map(|step| step.name.as_str());
    let width = names.chain(["together"]).map(|name| name.chars().count()).max().unwrap_or(0);
    let mut lines = vec!["Summary".to_owned()];
    for Step { name, outcome, took } in steps {
        lines.push(format!("  {name:width$}  {:>12}  {outcome}", step::seconds(*took)));
    }
    lines.push(format!("  {:width$}  {:>12}", "together", step::seconds(took)));
    if !skipped_tests.is_empty() {
        lines.push(format!("Tests that were skipped: {}", skipped_tests.len()));
        lines.extend(skipped_tests.iter().map(|line| format!("  {line}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, outcome: Outcome) -> Step {
        Step { name: name.to_owned(), outcome, took: Duration::from_millis(1_500) }
    }

    #[test]
    fn the_summary_repeats_what_was_skipped_and_why() {
        let steps =
            [step("format", Outcome::Done), step("deny", Outcome::Skipped("not there".to_owned()))];
        let text = summary(&steps, &["burst: no BPF here".to_owned()], Duration::from_secs(130));
        assert_eq!(
            text,
            "Summary\n  \
             format           1.5 s  ok\n  \
             deny             1.5 s  SKIPPED: not there\n  \
             together    2 min 10 s\n\
             Tests that were skipped: 1\n  \
             burst: no BPF here"
        );
    }

    #[test]
    fn a_failed_step_fails_the_command_and_a_skipped_one_does_not() {
        let fine = [step("deny", Outcome::Skipped("not there".to_owned()))];
        let bad = [step("docs", Outcome::Failed("a broken link".to_owned()))];
        assert_eq!(sum_up(&fine, &[], Duration::ZERO), ExitCode::SUCCESS);
        assert_eq!(sum_up(&bad, &[], Duration::ZERO), ExitCode::FAILURE);
    }
}
