use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Color, Exit, FailOn, Watching, alone::Alone, bounding::Bounding, print_error, reaping::Reaping,
    redacting::Redacting, runtime, screen::Screen,
};
use crate::{
    daemon::{
        Sink,
        choose::choose,
        ending::{self, Promise},
        session::{Note, Plan, Reason, record},
    },
    evidence::EvidenceWriter,
    model::Mode,
    profile::{Profile, Span},
    report::live::Live,
};

/// How long the last records may take to be written.
const LAST: Duration = Duration::from_millis(300);

/// Flags of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    /// Write evidence (NDJSON) to this file, or to stdout if it is `-`. What is in the file stays;
    /// SIGHUP has it opened anew
    #[arg(long, value_name = "FILE", default_value = "-")]
    evidence: PathBuf,
    /// Stop after this time: `90s`, `10m`, `2h`
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// Print nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    redacting: Redacting,
    #[command(flatten)]
    bounding: Bounding,
    #[command(flatten)]
    fail_on: FailOn,
    #[command(flatten, next_help_heading = "Ending workers")]
    reaping: Reaping,
}

/// Watches until SIGINT or SIGTERM, until its terminal closes, or until nobody reads its stdout any more.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let duration = args.duration.map(|span| Duration::from_nanos(span.as_ns()));
    let to_stdout = args.evidence == Path::new("-");
    let (redaction, note) = args.redacting.of_host();
    let plan = Plan {
        duration,
        policy: args.reaping.policy()?,
        redaction,
        bounds: args.bounding.bounds(),
        reopens: !to_stdout,
        ..Plan::default()
    };
    let ends = plan.policy.as_ref().filter(|policy| policy.mode == Mode::Enforce);
    let _alone = ends.map(|policy| Alone::take(profile, policy)).transpose()?;
    let mut evidence =
        if to_stdout { EvidenceWriter::stdout()? } else { EvidenceWriter::append(&args.evidence)? };
    ending::watch(Promise::Ended).context("cannot watch over signals")?;
    let screen = Screen::stderr(color);
    let mut live = Live::new(Box::new(screen.clone()));
    let recorded = runtime()?.block_on(async {
        let chosen = choose(args.watching.sensor, &options)?;
        ending::started();
        if let Some(why) = chosen.why
            && !args.quiet
        {
            screen.line(&why);
        }
        if let Some(note) = note
            && !args.quiet
        {
            screen.line(&note);
        }
        let mut sinks: Vec<&mut dyn Sink> = vec![&mut evidence];
        if !args.quiet {
            sinks.push(&mut live);
        }
        let mut tell = |note: Note| screen.note(&note);
        record(chosen.sensor, profile, sinks, &plan, &mut tell).await
    });
    if recorded.is_err() && !to_stdout {
        super::remove_if_empty(&args.evidence);
    }
    let ended = recorded?;
    // What could not be written is missing, and everything else is whole.
    let written = match ended.reason {
        Reason::OutputClosed => Ok(()),
        _ => evidence.finish(LAST),
    };
    if let Err(error) = &written {
        print_error(error);
    }
    Ok(match ended.reason {
        Reason::OutputClosed => Exit::Fine,
        _ if written.is_err() && !args.fail_on.fails(&ended.tally) => Exit::Incomplete,
        _ => Exit::of(&ended.tally, args.fail_on.fails(&ended.tally), None),
    })
}
