use std::{ffi::OsString, io, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use jiff::{ZonedDateTime, tz::TimeZone};

use super::{
    Color, Exit, FailOn, Watching, bounding::Bounding, gate::Gate, print_error,
    redacting::Redacting, runtime, screen::Screen,
};
use crate::{
    bundle::Folder,
    daemon::{
        Sink,
        choose::{Chosen, choose},
        ending::{self, Promise},
        session::{CommandEnded, Ended, Note, Plan, Reason, record},
    },
    evidence::EvidenceWriter,
    profile::{Profile, Span},
    redact::Redaction,
    report::{digest::Digest, live::Live, table, terminal_width, text},
    sensor::{
        Sensor,
        scope::{Scope, Scoped},
    },
};

/// How often a terminal is told how it is going.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Flags of `record`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    /// Write into this new or empty folder [default: slashtrace-DATE-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Stop after this time: `90s`, `10m`, `2h`. A CMD that still runs is sent SIGTERM, and gets
    /// 10 s to end
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// Go on watching for this long after CMD ended [default: while workers outlive their gateway,
    /// until they count as orphans]
    #[arg(long, value_name = "TIME", requires = "command")]
    linger: Option<Span>,
    /// Watch every worker of the machine, not only those that come from CMD
    #[arg(long, requires = "command")]
    system: bool,
    /// Print no lines as things happen, only the table at the end
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    redacting: Redacting,
    #[command(flatten)]
    bounding: Bounding,
    #[command(flatten)]
    fail_on: FailOn,
    #[command(flatten)]
    gate: Gate,
    /// Trace while this command runs; its exit code is passed on. It runs as you do: under sudo
    /// use `-- sudo -u "$SUDO_USER" CMD`
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Records into a folder and ends with a table.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    match recorded(args, profile, color) {
        // What went wrong here must not hide how the command ended.
        Err(error) => match error.downcast_ref::<CommandEnded>() {
            Some(&CommandEnded(code)) if code != 0 => {
                print_error(&error);
                Ok(Exit::Command(code))
            }
            _ => Err(error),
        },
        done => done,
    }
}

fn recorded(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let path = args.output.clone().unwrap_or_else(|| {
        PathBuf::from(ZonedDateTime::now().strftime("slashtrace-%Y%m%d-%H%M%S").to_string())
    });
    let folder = Folder::prepare(&path)?;
    let screen = Screen::stderr(color);
    let mut live = Live::new(Box::new(screen.clone()));
    let mut digest = Digest::new();
    let recorded = EvidenceWriter::create(&folder.part()).and_then(|mut evidence| {
        ending::watch(Promise::TakenUp).context("cannot watch over signals")?;
        runtime()?.block_on(async {
            let Chosen { sensor, why } = choose(args.watching.sensor, &options)?;
            ending::started();
            if let Some(why) = why
                && !args.quiet
            {
                screen.line(&why);
            }
            announce(args, &screen);
            let mut sinks: Vec<&mut dyn Sink> = vec![&mut evidence];
            if !args.quiet {
                sinks.push(&mut live);
            }
            sinks.push(&mut digest);
            let (redaction, note) = args.redacting.of_recording();
            if let Some(note) = note
                && !args.quiet
            {
                screen.line(&note);
            }
            let plan = plan(args, redaction, &screen);
            let (sensor, plan) = if args.command.is_empty() || args.system {
                (sensor, plan)
            } else {
                let scope = Scope::new();
                let plan = Plan { environment: vec![scope.variable()], ..plan };
                (Box::new(Scoped::new(sensor, scope)) as Box<dyn Sensor>, plan)
            };
            let mut tell = |note: Note| screen.note(&note);
            let ended = record(sensor, profile, sinks, &plan, &mut tell).await?;
            ending::release();
            evidence.sync()?;
            Ok(ended)
        })
    });
    screen.end();
    let ended = recorded.map_err(|error| match folder.abandon() {
        Some(part) => {
            let told = match error.downcast_ref::<CommandEnded>() {
                Some(&ended) => error.context(ended),
                None => error,
            };
            told.context(format!("what was recorded is in {}", part.display()))
        }
        None => error,
    })?;
    let command = command_code(&ended, args);
    let written = finish(args, &folder, &digest, &screen);
    match (written, command) {
        (Ok(()), _) => {}
        (Err(error), Some(code)) => return Err(error.context(CommandEnded(code))),
        (Err(error), None) => return Err(error),
    }
    if !ended.complete {
        screen.line("the evidence is incomplete: see its gap records");
    }
    if !ended.tally.judged() {
        screen
            .line("not every worker could be judged: \"What was not seen\" in the report says why");
    }
    Ok(Exit::of(&ended.tally, args.fail_on.fails(&ended.tally), command))
}

/// Writes the reports, and tells people where they are.
fn finish(args: &Args, folder: &Folder, digest: &Digest, screen: &Screen) -> Result<()> {
    let report = digest.report();
    let zone = TimeZone::system();
    // That nobody reads the table does not undo the recording.
    let _ = table::render(&report, terminal_width(io::stderr()), &mut screen.clone());
    screen.line("");
    let _ = text::verdict(&report, &mut screen.clone());
    let bundle = folder.finish(&report, &zone)?;
    screen.line("");
    for (what, path) in [
        ("evidence", &bundle.evidence),
        ("to look at", &bundle.html),
        ("to paste into an issue", &bundle.markdown),
        ("to attach to it", &bundle.archive),
    ] {
        screen.line(&format!("{:<24}{}", format!("{what}:"), path.display()));
    }
    args.gate.tell(&report, &zone).context("the recording and its report are whole")
}

fn command_code(ended: &Ended, args: &Args) -> Option<u8> {
    match ended.reason {
        Reason::Command(code) => Some(code),
        // The user gave up on a command that would not end.
        Reason::Signal(signal) if !args.command.is_empty() => Some(128 + signal as u8),
        _ => None,
    }
}

fn plan(args: &Args, redaction: Redaction, screen: &Screen) -> Plan {
    let duration = |span: Span| Duration::from_nanos(span.as_ns());
    let alone = args.command.is_empty();
    Plan {
        duration: args.duration.map(duration),
        command: (!alone).then(|| args.command.clone()),
        linger: args.linger.map(duration),
        // Recording changes nothing.
        policy: None,
        // A command has the terminal to itself.
        status: (alone && !args.quiet && screen.is_terminal()).then_some(STATUS_EVERY),
        redaction,
        bounds: args.bounding.bounds(),
        environment: Vec::new(),
        reopens: false,
        resumed: None,
    }
}

fn announce(args: &Args, screen: &Screen) {
    if args.command.is_empty() && !args.quiet {
        screen.line(&match args.duration {
            Some(duration) => format!("recording for {duration}; Ctrl-C ends it earlier"),
            None => "recording; Ctrl-C ends it".to_owned(),
        });
    }
}
