//! The command line: flags in one place, one file a subcommand, exit codes in one table.
//! May touch: everything, but decides nothing about workers.

mod alone;
mod bounding;
pub mod doctor;
mod exit_codes;
mod fail_on;
mod gate;
pub mod profile;
pub mod ps;
mod pseudonyms;
mod reap;
mod reaping;
mod record;
mod redacting;
mod replay;
mod report;
mod run;
mod screen;

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

pub use exit_codes::Exit;

use self::{fail_on::FailOn, redacting::Redacting};
use crate::{
    daemon::{choose::Choice, ending},
    evidence,
    next_step::{NextStep as _, next_steps},
    profile::{Profile, Span},
    sensor::{Before, Options, TerminalChoice},
    unhurried,
};

const LONG_ABOUT: &str = "\
Proves which code path leaks worker processes.

slashtrace watches processes being born, working and ending, in the kernel. It says which gateway
and session every worker belongs to, names leak patterns (duplicate-worker, lost-worker, \
spawn-per-call, …) with proof, and writes evidence that replays to the same verdict on any machine.";

const EXAMPLES: &str = "\
Examples:
  sudo slashtrace ps                              what is running now, by gateway and session
  sudo slashtrace record -o report --duration 10m record into a folder, table at the end
  sudo slashtrace record --fail-on any -- pytest tests/tui
                                                  trace a command, and fail if it leaks
  sudo slashtrace run --evidence /var/log/slashtrace.ndjson
  sudo slashtrace run --policy dry-run            say which workers would be ended, and why
  slashtrace report report                        what it comes to; --format html, markdown, …
  slashtrace report --diff before after           what a fix changed
  slashtrace replay report                        judge a recording again (no root)
  sudo slashtrace profile check mine.toml         what is wrong with a profile, and whom it matches
  sudo slashtrace doctor                          can this machine do it, and what to do if not

Exit codes: 0 fine · 1 findings at or above --fail-on · 2 usage or environment error ·
3 incomplete evidence: something was not seen, or workers could not be judged (the report says why) ·
the command's own code where `record -- CMD` ran one";

#[derive(Debug, Parser)]
#[command(name = "slashtrace", version, about = "Proves which code path leaks worker processes",
    long_about = LONG_ABOUT, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Args, Clone, Debug)]
struct Common {
    /// Watch the workers of this profile (TOML) instead of the built-in `hermes`
    #[arg(long, global = true, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Colour: on a terminal (and without NO_COLOR), always, or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

/// How to watch.
#[derive(Args, Clone, Debug)]
struct Watching {
    /// Kernel programs (ebpf: needs root), /proc alone (poll), or the best that can be had
    #[arg(long, default_value = "auto")]
    sensor: Choice,
    /// Count each read of a worker's stdin in the kernel: proves `spawn-per-call`. Opt-in, because
    /// its hook costs others something: who reads from pipes, or, where the kernel does not allow
    /// that hook, every system call of every process (`doctor` says which)
    #[arg(long)]
    count_calls: bool,
    /// How often tracked workers are sampled
    #[arg(long, value_name = "TIME", default_value = "2s")]
    sample_interval: Span,
    /// What tells the end of a terminal (for trying each on a kernel)
    #[arg(long, value_name = "HOOK", default_value = "auto", hide = true)]
    terminal_hook: TerminalChoice,
    /// Print what the kernel programs log (for debugging them)
    #[arg(long, hide_short_help = true)]
    kernel_log: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// What becomes of styles that are written to a stream.
    fn of(self, stream: &impl RawStream) -> ColorChoice {
        match self {
            Self::Auto => AutoStream::choice(stream),
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
    }

    /// The stream, for text in colours: strips them where they are not wanted. Data must not pass
    /// through it.
    fn stream<S: RawStream>(self, stream: S) -> AutoStream<S> {
        let choice = self.of(&stream);
        AutoStream::new(stream, choice)
    }

    /// stdout: for data, which passes as it is, or for text.
    fn stdout(self, data: bool) -> AutoStream<io::StdoutLock<'static>> {
        let stdout = io::stdout().lock();
        if data { AutoStream::always_ansi(stdout) } else { self.stream(stdout) }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch until stopped: evidence to a file or stdout, what happens to stderr
    Run(run::Args),
    /// Record for a while, or while a command runs, into a folder; ends with a table
    Record(record::Args),
    /// Show the workers that are running now, by gateway and session
    Ps {
        /// Print JSON for scripts
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        redacting: Redacting,
    },
    /// List the workers that nobody can use any more, and why; with --yes, end them
    Reap(reap::Args),
    /// Judge a recording again: the same findings, on any machine, without root
    Replay(replay::Args),
    /// What a recording comes to: verdict, sessions, findings, and which code path is at fault
    Report(report::Args),
    /// Check a profile: what a worker is to slashtrace, for another program than hermes
    Profile(profile::Args),
    /// Check what this machine allows, and say what to do where it does not
    Doctor {
        /// Print JSON for scripts
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a line of evidence
    Schema,
}

/// Runs the command line and returns the exit code. Errors are printed here, with a next step.
pub fn main() -> ExitCode {
    ending::heed_signals();
    let code = parse_and_run();
    // Who reads stderr may be slow; who asked for an end does not wait for them.
    unhurried::finish(if ending::is_asked_for() { ASKED } else { READER });
    code
}

/// How long lines for people may take once a signal asked for an end, and otherwise without anybody
/// reading any of them.
const ASKED: Duration = Duration::from_millis(200);
const READER: Duration = Duration::from_secs(10);

fn parse_and_run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come this way, too.
            drop(error.print());
            return if error.use_stderr() { Exit::Error.into() } else { Exit::Fine.into() };
        }
    };
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => Exit::Fine.into(),
        Err(error) => {
            print_error(&error);
            Exit::Error.into()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    let profile = load_profile(&cli.common)?;
    let color = cli.common.color;
    match &cli.command {
        Command::Run(args) => run::run(args, &profile, color).map(Into::into),
        Command::Record(args) => record::run(args, &profile, color).map(Into::into),
        Command::Ps { json, redacting } => {
            ps::run(&profile, *json, *redacting, &mut color.stdout(*json))?;
            Ok(Exit::Fine.into())
        }
        Command::Reap(args) => reap::run(args, &profile, color).map(Into::into),
        Command::Replay(args) => replay::run(args, color).map(Into::into),
        Command::Report(args) => report::run(args, color).map(Into::into),
        Command::Profile(args) => profile::run(args, color),
        Command::Doctor { json } => doctor::run(&profile, *json, &mut color.stdout(*json)),
        Command::Schema => {
            io::stdout().lock().write_all(evidence::schema::json()?.as_bytes())?;
            Ok(Exit::Fine.into())
        }
    }
}

fn load_profile(common: &Common) -> Result<Profile> {
    match &common.profile {
        Some(path) => profile_in(path),
        None => Ok(Profile::hermes()),
    }
}

fn profile_in(path: &Path) -> Result<Profile> {
    let text = read_profile(path)
        .with_context(|| format!("cannot read the profile {}", path.display()))?;
    Profile::parse(&text)
        .with_context(|| format!("the profile {} is not valid", path.display()))
        .next_step(
            "correct that line; `slashtrace profile check --help` says what a profile can have, and \
             docs/PROFILES.md has examples",
        )
}

/// A profile is a page of text; anything longer (a device, a recording) is a mistake.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

fn read_profile(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(PROFILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROFILE_BYTES_MAX {
        bail!("it is longer than {} KiB: no profile", PROFILE_BYTES_MAX >> 10);
    }
    String::from_utf8(bytes).map_err(|error| {
        let whole = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = whole.split(|&b| b == b'\n').count();
        anyhow::anyhow!("line {line}: not UTF-8 text")
    })
}

/// The moment that was this long ago.
fn ago(span: Span) -> Result<Timestamp> {
    let ns = i64::try_from(span.as_ns()).unwrap_or(i64::MAX);
    Timestamp::now()
        .checked_sub(SignedDuration::from_nanos(ns))
        .context("that is longer ago than there is a date for")
}

/// Takes a file away that has nothing in it: a recording that could not even begin.
fn remove_if_empty(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        let _ = fs::remove_file(path);
    }
}

impl Watching {
    fn options(&self, profile: &Profile) -> Result<Options> {
        let sample_interval = Duration::from_nanos(self.sample_interval.as_ns());
        if sample_interval < Duration::from_millis(100) {
            bail!("--sample-interval {} is too short: 100ms at least", self.sample_interval);
        }
        if self.count_calls && self.sensor == Choice::Poll {
            let what = "--count-calls counts reads in the kernel, which --sensor poll does not use";
            return Err(anyhow!(what)).next_step("leave one of them out");
        }
        Ok(Options {
            profile: profile.clone(),
            sample_interval,
            count_calls: self.count_calls,
            terminal_hook: self.terminal_hook,
            kernel_log: self.kernel_log,
            before: Before::default(),
        })
    }
}

/// Prints the chain of causes, one a line, next steps last; never a backtrace.
fn print_error(error: &anyhow::Error) {
    let mut causes = Vec::new();
    for cause in error.chain() {
        for line in cause.to_string().lines() {
            if causes.last().is_none_or(|last: &String| !last.contains(line)) {
                causes.push(line.to_owned());
            }
        }
    }
    let mut stderr = unhurried::stderr();
    let mut lines = causes.iter();
    if let Some(first) = lines.next() {
        drop(writeln!(stderr, "error: {first}"));
    }
    for line in lines {
        drop(writeln!(stderr, "  {line}"));
    }
    for step in next_steps(error) {
        drop(writeln!(stderr, "next step: {step}"));
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        [io, json].contains(&Some(io::ErrorKind::BrokenPipe))
    })
}

/// A runtime for one thread: the daemon is to be light, and the engine has no locks.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        let written = |color: Color| {
            let mut out = color.stream(Vec::new());
            out.write_all(b"\x1b[1mbold\x1b[0m\n").unwrap();
            String::from_utf8(out.into_inner()).unwrap()
        };
        assert_eq!(written(Color::Always), "\x1b[1mbold\x1b[0m\n");
        assert_eq!(written(Color::Never), "bold\n");
        // Memory is no terminal.
        assert_eq!(written(Color::Auto), "bold\n");
    }
}
