//! `cargo xtask test`: everything that must hold, and a summary that says what was not looked at.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt, checkout,
    e2e::{self, Beside},
    hermes, setup,
    step::{self, Outcome, STEP_LIMIT, Step},
    vm,
};

/// A network that swallows packets is none.
const FETCH_LIMIT: Duration = Duration::from_mins(1);

/// Looks at what is linked and built with.
const DENY: setup::Tool =
    setup::Tool { name: "cargo-deny", version: "0.20.2", build: setup::Build::Quick };

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

    let skips = Skips::new()?;
    // What is downloaded comes while this machine compiles.
    let (fetched, mut checked) = thread::scope(|scope| {
        let fetched = scope.spawn(|| fetch(args.fast));
        let checked = check(&skips);
        (joined(fetched), checked)
    });
    steps.append(&mut checked.0);
    steps.extend(fetched?);
    steps.extend(end_to_end(args.fast, checked.1.as_ref(), &skips)?);
    Ok(sum_up(&steps, &skips.read()?, started.elapsed()))
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a step of xtask itself panicked"))
}

/// What tests need besides a toolchain: apt's one after the other, and hermes-agent beside them.
fn fetch(fast: bool) -> Vec<Step> {
    thread::scope(|scope| {
        let venvs = scope.spawn(|| {
            let versions: Vec<&str> =
                if fast { vec![] } else { [&hermes::VERSIONS[..], &hermes::BETWEEN].concat() };
            let made = |version: &&str| {
                step::quietly(&format!("hermes-agent {version}"), |log| {
                    // No network is no failure: its tests say that they are skipped, and why.
                    step::logged_within(STEP_LIMIT, &mut hermes::install(version), log)
                        .or_else(|error| Ok(Outcome::Skipped(format!("{error:#}"))))
                })
            };
            versions.iter().map(made).collect::<Vec<_>>()
        });
        let mut steps = vec![
            step::quietly("Chromium, which report.html is opened in", |_| chromium()),
            step::quietly("jq, for the recipes of docs/EVIDENCE.md", |_| {
                packaged(&["jq"], ("jq", "jq"))
            }),
        ];
        if !fast {
            steps.extend(vm::fetch());
        }
        steps.extend(venvs.join().unwrap_or_default());
        steps
    })
}

/// What needs the processor: lints, docs, unit tests, and the build of the end-to-end tests.
fn check(skips: &Skips) -> (Vec<Step>, Option<e2e::Built>) {
    let mut steps = Vec::new();
    let mut cargo = |name: &str, arguments: &[&str]| {
        steps.push(step::run(name, || {
            step::call_within(STEP_LIMIT, &mut checkout::cargo(arguments))
        }));
    };
    cargo("format", &["fmt", "--all", "--check"]);
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.push(step::run("clippy (kernel programs)", clippy_for_bpf));
    steps.push(step::run("docs", docs));
    let mut built = None;
    steps.push(step::run("build of every test", || {
        built = Some(e2e::build(&skips.file)?);
        Ok(Outcome::Done)
    }));
    steps.push(step::run("unit, snapshot and property tests", || {
        let mut tests = checkout::cargo(&["test", "--workspace", "--lib", "--bins"]);
        for name in names_in("slashtrace/tests")? {
            tests.args(["--test", &name]);
        }
        step::call_within(STEP_LIMIT, &mut tests)?;
        step::call_within(STEP_LIMIT, &mut checkout::cargo(&["test", "--workspace", "--doc"]))
    }));
    (steps, built)
}

/// Names of the test programs in a folder of the checkout.
fn names_in(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(checkout::file(folder)).with_context(|| format!("no {folder}"))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect())
}

/// The end-to-end tests side by side; beside them, with what they leave of the processor,
/// cargo-deny and the other kernels.
fn end_to_end(fast: bool, built: Option<&e2e::Built>, skips: &Skips) -> Result<Vec<Step>> {
    let files = e2e::files()?;
    let (hermes, other): (Vec<e2e::File>, Vec<e2e::File>) =
        files.iter().cloned().partition(e2e::File::is_hermes);
    let mut steps = thread::scope(|scope| {
        let denied = scope.spawn(licences);
        let guests =
            scope.spawn(|| if fast { Vec::new() } else { vm::beside(&files, &skips.file) });
        let mut steps = Vec::new();
        if let Some(built) = built {
            let files = if fast { &other } else { &files };
            steps.extend(built.run_those(files, Beside::Anything));
        }
        steps.extend(joined(denied)?);
        steps.extend(joined(guests)?);
        anyhow::Ok(steps)
    })?;
    if let Some(built) = built {
        let files = if fast { &other } else { &files };
        steps.extend(built.run_those(files, Beside::Few));
        steps.extend(built.run_those(files, Beside::Nothing));
    }
    if fast {
        for name in [format!("test {}", e2e::names(&hermes)), "other kernels in qemu".to_owned()] {
            steps.push(step::run(&name, || Ok(Outcome::Skipped("--fast".to_owned()))));
        }
    }
    Ok(steps)
}

/// End-to-end tests and nothing else.
pub(crate) fn end_to_end_alone(args: &e2e::Args) -> Result<ExitCode> {
    let started = Instant::now();
    let all = e2e::files()?;
    if let Some(unknown) = args.files.iter().find(|name| all.iter().all(|it| it.name != **name)) {
        bail!("there is no tests/tests/{unknown}.rs; there are {}", e2e::names(&all));
    }
    let wanted = |file: &e2e::File| args.files.is_empty() || args.files.contains(&file.name);
    let files: Vec<e2e::File> = all.into_iter().filter(wanted).collect();
    let skips = Skips::new()?;
    let built = e2e::build(&skips.file)?;
    let phases = [Beside::Anything, Beside::Few, Beside::Nothing];
    let steps: Vec<Step> =
        phases.iter().flat_map(|&beside| built.run_those(&files, beside)).collect();
    Ok(sum_up(&steps, &skips.read()?, started.elapsed()))
}

/// What is linked and built with.
fn licences() -> Vec<Step> {
    vec![
        step::quietly(&format!("cargo-deny {} in .tools", DENY.version), |log| {
            DENY.install_beside(log)
        }),
        step::quietly("licences and sources (cargo-deny)", |log| {
            let mut check = deny(&["check", "licenses", "bans", "sources"]);
            step::logged_within(STEP_LIMIT, &mut check, log)
        }),
        step::quietly("advisories (cargo-deny)", advisories),
    ]
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
fn advisories(log: &Path) -> Result<Outcome> {
    let mut fetch = deny(&["fetch", "db"]);
    match step::call_within(FETCH_LIMIT, fetch.stderr(Stdio::null())) {
        Ok(_) => step::logged_within(STEP_LIMIT, &mut deny(&["check", "advisories"]), log),
        Err(_) => Ok(Outcome::Skipped(
            "the advisory database cannot be fetched from GitHub here".to_owned(),
        )),
    }
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
pub(crate) fn sum_up_alone(steps: &[Step], skipped_tests: &[String]) -> ExitCode {
    sum_up(steps, skipped_tests, steps.iter().map(|step| step.took).sum())
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
