use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow};

use super::{Color, Exit, FailOn, screen::Screen};
use crate::{
    daemon::{
        Sink,
        replay::{Difference, Replayed, Run, replay},
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
    for run in &replayed.runs {
        if let Some(difference) = &run.difference {
            return Err(differs(args, run, difference));
        }
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
    let several = replayed.runs.len() > 1;
    if several {
        screen.line(&format!(
            "the file holds {} recordings, each judged by itself",
            replayed.runs.len()
        ));
    }
    if replayed.torn > 0 {
        screen.line(&format!(
            "lines that were cut off when slashtrace was killed: {}",
            replayed.torn
        ));
    }
    for (run, number) in replayed.runs.iter().zip(1_u32..) {
        let which =
            if several { format!("recording {number}") } else { "the recording".to_owned() };
        for line in about(run) {
            screen.line(&format!("{which} {line}"));
        }
        if let Some(not_judged) = not_judged(run.tally.unjudged()) {
            let of = if several { format!("of recording {number}'s") } else { "of its".to_owned() };
            screen.line(&format!("{of} workers, {not_judged}"));
        }
    }
    // The worst of them: found leaks are found, whatever the other recordings come to.
    let exits =
        replayed.runs.iter().map(|run| Exit::of(&run.tally, args.fail_on.fails(&run.tally), None));
    let exits: Vec<Exit> = exits.collect();
    Ok([Exit::Findings, Exit::Incomplete]
        .into_iter()
        .find(|exit| exits.contains(exit))
        .unwrap_or(Exit::Fine))
}

/// What there is to know about one recording.
fn about(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    if !run.tally.stopped() {
        lines.push("was not ended in order: it has no stop record".to_owned());
    } else if !run.tally.complete() {
        lines.push("is incomplete: see its gap records".to_owned());
    }
    if run.taken > 0 {
        lines.push(format!(
            "has {} that were taken as they are: what they rest on is not in this file",
            findings(run.taken)
        ));
    }
    lines
}

fn differs(args: &Args, run: &Run, difference: &Difference) -> anyhow::Error {
    let show = |line: &Option<String>| line.as_deref().map_or("nothing".to_owned(), printable);
    let ours = env!("CARGO_PKG_VERSION");
    let step = if run.is_by_another_build() {
        format!("replay with slashtrace {}, which recorded it", printable(&run.recorded_by()))
    } else {
        "get the file again from where it was recorded; it was changed on the way".to_owned()
    };
    let error = anyhow!(
        "{}: the findings are not the recorded ones, first after seq {}\nrecorded (slashtrace {}): \
         {}\nnow (slashtrace {ours}): {}",
        args.file.display(),
        difference.seq,
        printable(&run.recorded_by()),
        show(&difference.recorded),
        show(&difference.replayed),
    );
    error.next_step(step)
}

fn findings(n: u64) -> String {
    if n == 1 { "1 finding record".to_owned() } else { format!("{n} finding records") }
}

fn count(replayed: &Replayed) -> String {
    let made = replayed.runs.iter().map(|run| run.findings).sum();
    format!("{} reproduced", findings(made))
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
