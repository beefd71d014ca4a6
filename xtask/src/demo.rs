//! `cargo xtask demo`: a gateway that leaks in every way, traced while it does.

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{build, checkout, hermes, run, setup, step};

/// What to demonstrate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    build: build::Args,
    /// Trace the real hermes-agent of this version from PyPI (0.13.0 or 0.19.0) instead of the
    /// bundled gateway.
    #[arg(long, value_name = "VERSION", value_parser = clap::builder::PossibleValuesParser::new(hermes::VERSIONS))]
    hermes: Option<String>,
    /// Rebuild the case of this issue of hermes-agent with real processes, and clean it up.
    #[arg(long, value_name = "ISSUE", value_parser = ["21467"], conflicts_with_all = ["hermes", "scenario"])]
    case: Option<String>,
    /// Which scenarios, separated by commas; see the fixture's `--help`. Default: all of them for
    /// the bundled gateway, `healthy,race,resume3` for hermes.
    #[arg(long, value_name = "LIST")]
    scenario: Option<String>,
}

/// How long slashtrace may take to attach its hooks.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the scene of [`reaping`] takes at most, as `slashtrace run --duration` wants it.
const SCENE: &str = "9s";

/// Sets up, builds, shows how a worker is ended, and becomes `slashtrace record -- GATEWAY`.
pub(crate) fn demo(args: &Args) -> Result<Infallible> {
    setup::everything()?;
    let program = build::build(args.build)?;
    if args.hermes.is_none() && args.scenario.is_none() && args.case.is_none() {
        reaping(&program)?;
    }
    let (what, mut command) = match &args.hermes {
        None if args.case.is_some() => case(&program)?,
        None => bundled(&program, args)?,
        Some(version) => real(&program, version, args)?,
    };
    eprintln!("==> {what}; Ctrl-C ends it early");
    run::become_command(&mut command)
}

/// `slashtrace run --policy enforce` beside a gateway that closes the terminal of one of its two
/// sessions. Only workers of a name that nobody else uses are matched, so nobody else's are ended.
fn reaping(program: &Path) -> Result<()> {
    eprintln!("==> a terminal closes, and its worker outlives it: slashtrace ends it");
    let folder = evidence_folder("reaped")?;
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (module, profile) = own_profile(&folder)?;
    let evidence = folder.join("evidence.ndjson");

    let mut command = run::as_root(program)?;
    command.arg("run").arg("--profile").arg(&profile).arg("--evidence").arg(&evidence);
    command.args(["--policy", "enforce", "--trigger", "terminal-orphan", "--min-age", "0s"]);
    let mut tracer = command.args(["--duration", SCENE]).spawn().context("cannot start it")?;
    let begun = Instant::now();
    // It is root's file: that it has something in it can be seen all the same.
    while fs::metadata(&evidence).map_or(0, |file| file.len()) == 0 {
        if let Some(status) = tracer.try_wait()? {
            bail!("slashtrace ended with {status} before it watched");
        }
        ensure!(begun.elapsed() < PATIENCE, "slashtrace does not watch");
        thread::sleep(Duration::from_millis(50));
    }
    let mut gateway = Command::new("python3");
    gateway.arg(checkout::file("tests/fixtures/leaky_gateway/gateway.py"));
    gateway.args(["--narrate", "--scenario", "reaped", "--module", &module]);
    step::call(&mut gateway)?;
    let status = tracer.wait()?;
    ensure!(status.success(), "slashtrace ended with {status}");
    eprintln!();
    Ok(())
}

/// A name for workers that nobody else uses, and a profile that matches it alone.
pub(crate) fn own_profile(folder: &Path) -> Result<(String, PathBuf)> {
    let module = format!("slashtrace_demo.worker_{}", process::id());
    let demo = checkout::file("tests/fixtures/demo.toml");
    let text =
        fs::read_to_string(&demo).with_context(|| format!("cannot read {}", demo.display()))?;
    let profile = folder.join("profile.toml");
    fs::write(&profile, text.replace("tui_gateway.slash_worker\"]", &format!("{module}\"]")))?;
    Ok((module, profile))
}

/// The case of an issue, from the first worker to the clean-up.
fn case(program: &Path) -> Result<(String, Command)> {
    let folder = evidence_folder("case-21467")?;
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (module, profile) = own_profile(&folder)?;
    let mut command = run::as_root("python3".as_ref())?;
    command.arg(checkout::file("tests/fixtures/leaky_gateway/case_21467.py"));
    command.arg("--slashtrace").arg(program).arg("--profile").arg(&profile);
    command.args(["--module", &module, "--output"]).arg(&folder);
    Ok((
        "the case of #21467: 128 stale workers of five sessions, about two minutes".to_owned(),
        command,
    ))
}

fn bundled(program: &Path, args: &Args) -> Result<(String, Command)> {
    let mut command = record(program, "bundled", Some("tests/fixtures/demo.toml"))?;
    command.arg("python3").arg(checkout::file("tests/fixtures/leaky_gateway/gateway.py"));
    command.arg("--narrate");
    if let Some(list) = &args.scenario {
        command.args(["--scenario", list]);
    }
    Ok(("tracing the bundled leaky gateway, about a minute".to_owned(), command))
}

fn real(program: &Path, version: &str, args: &Args) -> Result<(String, Command)> {
    let python = hermes::venv(version)?;
    let mut command = record(program, &format!("hermes-{version}"), None)?;
    command.arg(python).arg(checkout::file("tests/fixtures/hermes/driver.py"));
    command.arg("--narrate");
    command.args(["--scenario", args.scenario.as_deref().unwrap_or("healthy,race,resume3")]);
    Ok((format!("tracing hermes-agent {version}, about a minute"), command))
}

/// `slashtrace record` as root up to and including its `--`.
fn record(program: &Path, name: &str, profile: Option<&str>) -> Result<Command> {
    let evidence = evidence_folder(name)?;
    let mut command = run::as_root(program)?;
    command.args([OsStr::new("record"), OsStr::new("-o"), evidence.as_os_str()]);
    // With counted calls and frequent samples a minute is enough to tell the patterns apart.
    command.args(["--count-calls", "--sample-interval", "1s"]);
    if let Some(profile) = profile {
        command.arg("--profile").arg(checkout::file(profile));
    }
    command.arg("--");
    Ok(command)
}

/// A folder for this demo's evidence that is not there yet: `target/demo/<name>-<n>`.
fn evidence_folder(name: &str) -> Result<PathBuf> {
    let parent = checkout::target().join("demo");
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    for n in 1..10_000 {
        let folder = parent.join(format!("{name}-{n}"));
        if !folder.exists() {
            return Ok(folder);
        }
    }
    bail!("{} is full of old demos: delete it", parent.display())
}
