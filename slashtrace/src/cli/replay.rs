use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow};

use super::{Color, Exit, FailOn, screen::Screen};
use crate::{
    daemon::{
        Sink,
        replay::{Difference, Replayed, replay},
    },
    evidence::{Reader, line},
    model::{Body, Record},
    next_step::NextStep as _,
    redact::printable,
    report::{
        digest::Digest,
        live::Live,
        table::{self, terminal_width},
        words::not_judged,
    },
    roster::Roster,
};

/// Flags of `replay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Evidence (NDJSON) of `run` or `record`; `-` for stdin
    file: PathBuf,
    /// Print findings as JSON lines; the default unless stdout is a terminal
    #[arg(long)]
    json: bool,
    /// Print the per-session table, too, on stderr
    #[arg(long)]
    table: bool,
    #[command(flatten)]
    fail_on: FailOn,
}

/// Judges a recording again and compares with what it says.
pub fn run(args: &Args, color: Color) -> Result<Exit> {
    let reader = Reader::open(&args.file)?;
    let screen = Screen::stderr(color);
    let mut digest = args.table.then(Digest::new);
    let terminal = io::stdout().is_terminal();
    let replayed = {
        let mut json = Json { out: &mut io::stdout().lock() };
        let mut live = Live::new(Box::new(color.stream(io::stdout())));
        let mut lines = Findings { to: &mut live };
        let findings: &mut dyn Sink = if args.json || !terminal { &mut json } else { &mut lines };
        let mut sinks = vec![findings];
        sinks.extend(digest.as_mut().map(|digest| -> &mut dyn Sink { digest }));
        replay(reader, sinks).with_context(|| format!("cannot replay {}", args.file.display()))?
    };
    if let Some(digest) = digest {
        let _ = table::render(&digest.report(), terminal_width(io::stderr()), &mut screen.clone());
    }
    if let Some(difference) = &replayed.difference {
        return Err(differs(args, &replayed, difference));
    }
    if let Some(defect) = &replayed.defect {
        let error = anyhow!(
            "{}: {defect}\nthe {} lines before it were judged: {}",
            args.file.display(),
            defect.line - 1,
            count(&replayed),
        );
        return Err(error).next_step(defect.next_step());
    }
    screen.line(&format!("{}, identical to the recorded", count(&replayed)));
    if !replayed.tally.stopped() {
        screen.line("the recording was not ended in order: it has no stop record");
    } else if !replayed.tally.complete() {
        screen.line("the recording is incomplete: see its gap records");
    }
    if let Some(not_judged) = not_judged(replayed.tally.unjudged()) {
        screen.line(&format!("of its workers, {not_judged}"));
    }
    Ok(Exit::of(&replayed.tally, args.fail_on.fails(&replayed.tally), None))
}

fn differs(args: &Args, replayed: &Replayed, difference: &Difference) -> anyhow::Error {
    let show = |line: &Option<String>| line.as_deref().map_or("nothing".to_owned(), printable);
    let ours = env!("CARGO_PKG_VERSION");
    let step = if replayed.version == ours {
        "get the file again from where it was recorded; it was changed on the way".to_owned()
    } else {
        format!("replay with slashtrace {}, which recorded it", printable(&replayed.version))
    };
    let error = anyhow!(
        "{}: the findings are not the recorded ones, first after seq {}\nrecorded (slashtrace {}): \
         {}\nnow (slashtrace {ours}): {}",
        args.file.display(),
        difference.seq,
        printable(&replayed.version),
        show(&difference.recorded),
        show(&difference.replayed),
    );
    error.next_step(step)
}

fn count(replayed: &Replayed) -> String {
    match replayed.findings {
        1 => "1 finding record reproduced".to_owned(),
        n => format!("{n} finding records reproduced"),
    }
}

/// Writes findings as they stand in evidence.
struct Json<'a> {
    out: &'a mut dyn Write,
}

impl Sink for Json<'_> {
    fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
        if matches!(record.body, Body::Finding(_)) {
            writeln!(self.out, "{}", line(record)?)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Hands on findings alone.
struct Findings<'a> {
    to: &'a mut dyn Sink,
}

impl Sink for Findings<'_> {
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        match record.body {
            Body::Finding(_) => self.to.record(record, roster),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}
