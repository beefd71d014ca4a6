use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::ZonedDateTime;

use super::{Color, Exit, FailOn, Watching, runtime, screen::Screen};
use crate::{
    daemon::{
        Sink,
        choose::{Chosen, choose},
        session::{Ended, Note, Plan, Reason, record},
    },
    evidence::EvidenceWriter,
    profile::{Profile, Span},
    report::{live::Live, table::Table},
};

/// Name of the evidence in the folder, once it is whole.
const EVIDENCE: &str = "evidence.ndjson";
/// Its name while it is written.
const PARTIAL: &str = "evidence.ndjson.part";
/// How often a terminal is told how it is going.
const STATUS_EVERY: Duration = Duration::from_secs(3);

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
    /// Print no lines as things happen, only the table at the end
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    fail_on: FailOn,
    /// Trace while this command runs; its exit code is passed on. It runs as you do: under sudo
    /// use `-- sudo -u "$SUDO_USER" CMD`
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Records into a folder and ends with a table.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let folder = args.output.clone().unwrap_or_else(|| {
        PathBuf::from(ZonedDateTime::now().strftime("slashtrace-%Y%m%d-%H%M%S").to_string())
    });
    let made = prepare(&folder)?;
    let partial = folder.join(PARTIAL);
    let screen = Screen::stderr();
    let color = color.on(screen.is_terminal());
    let mut live = Live::new(Box::new(screen.clone()), color);
    let mut table = Table::new();
    let recorded = EvidenceWriter::create(&partial).and_then(|mut evidence| {
        runtime()?.block_on(async {
            let Chosen { sensor, why } = choose(args.watching.sensor, &options)?;
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
            sinks.push(&mut table);
            let mut tell = |note: Note| screen.note(&note);
            let ended = record(sensor, profile, sinks, &plan(args, &screen), &mut tell).await?;
            evidence.sync()?;
            Ok(ended)
        })
    });
    screen.end();
    let ended = match recorded {
        Ok(ended) => ended,
        Err(error) => {
            // Nothing half-written: what has no record in it is taken away again, and a recording
            // that was begun keeps the name that says so.
            super::remove_if_empty(&partial);
            if made && fs::remove_dir(&folder).is_ok() {
                return Err(error);
            }
            return Err(if partial.exists() {
                error.context(format!("what was recorded is in {}", partial.display()))
            } else {
                error
            });
        }
    };
    let evidence = folder.join(EVIDENCE);
    fs::rename(&partial, &evidence)
        .with_context(|| format!("cannot rename {}", partial.display()))?;
    // That nobody reads the table does not undo the recording.
    let _ = table.render(&mut screen.clone(), color);
    screen.line(&format!("\nevidence: {}", evidence.display()));
    if !ended.complete {
        screen.line("the evidence is incomplete: see its gap records");
    }
    Ok(exit(&ended, args))
}

fn exit(ended: &Ended, args: &Args) -> Exit {
    let command = match ended.reason {
        Reason::Command(code) => Some(code),
        // The user gave up on a command that would not end.
        Reason::Signal(signal) if !args.command.is_empty() => Some(128 + signal as u8),
        _ => None,
    };
    Exit::of(&ended.tally, args.fail_on.least(), command)
}

fn plan(args: &Args, screen: &Screen) -> Plan {
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

/// Makes the folder, or checks that it is empty; says whether it was made.
fn prepare(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!(
                    "{} is not empty, and recordings are never overwritten\nnext step: name \
                     another folder with -o",
                    folder.display()
                );
            }
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).recursive(true).create(folder).with_context(|| {
                format!(
                    "cannot make the folder {}\nnext step: name one with -o that you may make",
                    folder.display()
                )
            })?;
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot use the folder {}\nnext step: name a new folder with -o",
                folder.display()
            )
        }),
    }
}
