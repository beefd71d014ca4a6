use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Color, Exit, FailOn, Watching, alone::Alone, bounding, bounding::Bounding, print_error,
    reaping::Reaping, redacting::Redacting, runtime, screen::Screen,
};
use crate::{
    daemon::{
        Sink,
        choose::choose,
        ending::{self, Promise},
        resume::Resumed,
        session::{Note, Plan, Reason, record},
    },
    evidence::EvidenceWriter,
    model::Mode,
    profile::{Profile, Span},
    report::live::Live,
    sensor::Options,
};

/// How long the last records may take to be written.
const LAST: Duration = Duration::from_millis(300);

/// Flags of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    /// Write evidence (NDJSON) to this file, or to stdout if it is `-`. What is in the file stays;
    /// SIGHUP has it opened anew. In a folder (one that exists, or a name that ends with `/`) files are
    /// kept one after the other, the oldest go when it is full, and the next start goes on from them
    #[arg(long, value_name = "PATH", default_value = "-")]
    evidence: PathBuf,
    /// How much a folder of evidence holds at most: `64M`, `1G`
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = bounding::folder)]
    evidence_max: u64,
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
    let in_folder = !to_stdout && is_folder(&args.evidence);
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
    let mut evidence = match &args.evidence {
        _ if to_stdout => EvidenceWriter::stdout()?,
        folder if in_folder => EvidenceWriter::in_folder(folder, args.evidence_max)?,
        file => EvidenceWriter::append(file)?,
    };
    let resumed = match in_folder.then(|| Resumed::from(&args.evidence, profile, &plan.redaction)) {
        Some(Ok(resumed)) => resumed,
        // What is there stays, and is told of by whoever reads it.
        Some(Err(error)) => {
            print_error(&error.context("cannot resume from earlier evidence"));
            None
        }
        None => None,
    };
    let options = Options {
        before: resumed.as_ref().map(|resumed| resumed.before.clone()).unwrap_or_default(),
        ..options
    };
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
        let sensors = chosen.sensor.describe();
        let resumed = resumed.map(|it| it.for_sensors(sensors.kind, sensors.calls_counted));
        let notes = note.into_iter().chain(resumed.as_ref().and_then(|it| it.note.clone()));
        for note in notes.filter(|_| !args.quiet) {
            screen.line(&note);
        }
        let plan = Plan { resumed, ..plan };
        let mut sinks: Vec<&mut dyn Sink> = vec![&mut evidence];
        if !args.quiet {
            sinks.push(&mut live);
        }
        let mut tell = |note: Note| screen.note(&note);
        record(chosen.sensor, profile, sinks, &plan, &mut tell).await
    });
    if recorded.is_err() && !to_stdout && !in_folder {
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

/// Whether evidence is to be kept in a folder of this name.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_or_ends_with_a_slash() {
        assert!(is_folder(Path::new("/")) && is_folder(Path::new("/no/such/folder/")));
        assert!(!is_folder(Path::new("/no/such/file")) && !is_folder(Path::new("/dev/null")));
    }
}
