//! `slashtrace profile check`: what is wrong with a profile; or what it says, in words, and which
//! processes of this machine it matches now.
//! May touch: the file that it is given, /proc.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;

use super::{Color, Exit, profile_in, redacting::Redacting};
use crate::{
    host::proc::{IdentityBook, ProcFs, snapshot},
    model::{Role, Spawn},
    profile::{Channel, Excerpt, OnePer, ParseError, Profile, WorkerRule},
    redact,
    report::{
        columns::{Cell, Column, Columns},
        style::{BOLD, DIM},
    },
};

/// Characters of an argv that are shown.
const ARGV_CHARS_MAX: usize = 100;

const REFERENCE: &str = r#"A profile:
  name = "agents"

  [[worker]]                     # one rule or several; the first that matches holds
  name = "agent"                 # for people
  tokens = ["-m", "pkg.agent"]   # argv tokens one behind the other; `-mpkg.agent` is the same
  program = "gopls"              # or: the last part of argv[0], or of the file (or module) that an
                                 # interpreter runs. With `tokens`, both must hold
  exclude = ["--type=*"]         # with one of these tokens it is no worker
  session = { flag = "--session" }          # --session K, --session=K; the last one holds
         #  { position = 1 }                # the first argument that is no flag, nor may be the
                                            # value of one
         #  { env = "AGENT_SESSION" }       # the worker's own environment; no other is read
         #  { cwd = true }                  # the folder it runs in
         #  { title = "agent [*]" }         # a title it writes over its argv
         #  [{ flag = "-s" }, { env = "S" }]  # in this order; an empty key is none
         #  "none"                          # its workers have no session
  model_flag = "--model"
  one_per = "session"            # or "gateway", or "none": then any number is fine
  channel = "stdin"              # or "socket", "task": how it is spoken to. Without it each way
                                 # must be closed before a worker is called unused
  launchers = ["task run"]       # programs that only start it, besides sh -c, npx, uv run, …

  [graces]                       # how long a state may last before it is a finding
  overlap = "5s"

The rest is in docs/PROFILES.md."#;

/// Flags of `slashtrace profile`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with a profile; or what its rules mean, and which processes they match now
    ///
    /// Exits with 0 if the profile is valid, with 2 if it is not. It starts nothing and ends nothing.
    #[command(after_help = REFERENCE)]
    Check {
        /// The profile (TOML)
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON for scripts
        #[arg(long)]
        json: bool,
    },
}

/// A rule and whom it matches, for scripts.
#[derive(Debug, Serialize)]
struct RuleReport<'a> {
    name: &'a str,
    #[serde(flatten)]
    rule: WorkerRule,
    processes: Vec<Process<'a>>,
}

/// A process that a rule matches, as far as it may be shown.
#[derive(Debug, Serialize)]
struct Process<'a> {
    pid: u32,
    session: Option<&'a str>,
    argv: String,
}

/// What is wrong, for scripts.
#[derive(Debug, Serialize)]
struct Refused<'a> {
    valid: bool,
    #[serde(flatten)]
    place: Option<&'a Excerpt>,
    reason: &'a str,
}

/// Runs the subcommand.
///
/// # Errors
/// If the profile cannot be read or is not valid, or /proc cannot be read.
pub(super) fn run(args: &Args, color: Color) -> Result<ExitCode> {
    let What::Check { file, json } = &args.what;
    let mut out = color.stdout(*json);
    let profile = match profile_in(file) {
        Ok(profile) => profile,
        Err(error) => {
            let refusal = error.chain().find_map(|cause| cause.downcast_ref::<ParseError>());
            if let Some(ParseError { place, reason }) = refusal.filter(|_| *json) {
                let refused = Refused { valid: false, place: place.as_ref(), reason };
                serde_json::to_writer_pretty(&mut out, &refused)?;
                writeln!(out)?;
            }
            return Err(error);
        }
    };
    check(&ProcFs::default(), &profile, *json, &mut out)?;
    Ok(Exit::Fine.into())
}

fn check(proc: &ProcFs, profile: &Profile, json: bool, out: &mut dyn Write) -> Result<()> {
    let mut spawns = snapshot(proc, profile, &mut IdentityBook::new(proc.tick_ns()))
        .with_context(|| format!("cannot read {}; is it mounted?", proc.root().display()))?;
    spawns.retain(|spawn| spawn.role == Role::Worker);
    let (redaction, _) = Redacting::default().of_list(&spawns);
    for spawn in &mut spawns {
        redaction.spawn(spawn);
    }
    let reports: Vec<RuleReport<'_>> = profile
        .workers
        .iter()
        .map(|rule| {
            let own = spawns.iter().filter(|spawn| profile.rule(spawn.rule.as_deref()) == rule);
            let processes = own.map(process).collect();
            RuleReport {
                name: rule.name(),
                rule: WorkerRule { name: None, ..rule.clone() },
                processes,
            }
        })
        .collect();
    if json {
        let all = serde_json::json!({ "valid": true, "name": profile.name, "rules": reports });
        serde_json::to_writer_pretty(&mut *out, &all)?;
        writeln!(out)?;
        return Ok(());
    }
    let count = match reports.len() {
        1 => "one worker rule".to_owned(),
        count => format!("{count} worker rules; the first that matches holds"),
    };
    writeln!(out, "The profile {} is valid: {count}.", redact::printable(&profile.name))?;
    for report in &reports {
        writeln!(out)?;
        describe(report, out)?;
    }
    if !rustix::process::geteuid().is_root() {
        writeln!(out, "\nNot root: sessions of other users' processes may be missing.")?;
    }
    Ok(())
}

fn process(spawn: &Spawn) -> Process<'_> {
    let argv = spawn.argv.join(" ");
    let shown = match argv.char_indices().nth(ARGV_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &argv[..at]),
        None => argv,
    };
    Process { pid: spawn.pid, session: spawn.session.as_deref(), argv: shown }
}

/// A rule in words, and the processes that it matches.
fn describe(report: &RuleReport<'_>, out: &mut dyn Write) -> Result<()> {
    let rule = &report.rule;
    writeln!(out, "{BOLD}{}{BOLD:#}", redact::printable(report.name))?;
    let mut line = |key: &str, text: &str| {
        writeln!(out, "  {DIM}{key:<10}{DIM:#} {}", redact::printable(text))
    };
    line("matches", &matches(rule))?;
    if !rule.exclude.is_empty() {
        line("but not", &format!("with {} in its arguments", any_of(&rule.exclude)))?;
    }
    line("session", &session(rule))?;
    let one_per = match rule.one_per() {
        OnePer::Session => "session: two of one session are duplicates",
        OnePer::Gateway => "gateway: two of one gateway are duplicates",
        OnePer::None => "nothing: any number of them is fine",
    };
    line("one per", one_per)?;
    let channel = match rule.channel() {
        Some(Channel::Stdin) => "over its stdin",
        Some(Channel::Socket) => "over a socket; its stdin proves nothing",
        Some(Channel::Task) => {
            "not at all: it has its task from the start, and is in use while it works"
        }
        None => "not said: each way must be closed before a worker is called unused",
    };
    line("spoken to", channel)?;
    if !rule.launchers.is_empty() {
        line("launchers", &format!("the usual ones, and {}", any_of(&rule.launchers)))?;
    }
    if report.processes.is_empty() {
        line("now", "no process of this machine matches")?;
        return Ok(());
    }
    line("now", &format!("{} of this machine match:", report.processes.len()))?;
    let mut table = Columns::new([
        Column::right("PID").least(9),
        Column::left("SESSION"),
        Column::left("ARGV").breaks(30),
    ]);
    for Process { pid, session, argv } in &report.processes {
        let session = session.map_or_else(|| Cell::styled("-", DIM), Cell::from);
        table.row([pid.to_string().into(), session, argv.as_str().into()]);
    }
    table.write(2, None, out)?;
    Ok(())
}

fn matches(rule: &WorkerRule) -> String {
    let tokens = (!rule.tokens.is_empty())
        .then(|| format!("a process with `{}` in its arguments", rule.tokens.join(" ")));
    let program = rule
        .program
        .as_ref()
        .map(|program| format!("the program `{program}` (argv[0], or what an interpreter runs)"));
    match (program, tokens) {
        (Some(program), Some(tokens)) => format!("{tokens} that is {program}"),
        (Some(program), None) => program,
        (None, tokens) => tokens.unwrap_or_default(),
    }
}

fn session(rule: &WorkerRule) -> String {
    let sources: Vec<String> = rule.session().iter().map(ToString::to_string).collect();
    if sources.is_empty() { "none".to_owned() } else { sources.join("; else ") }
}

fn any_of(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| format!("`{item}`")).collect();
    quoted.join(" or ")
}
