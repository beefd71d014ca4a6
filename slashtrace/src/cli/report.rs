use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use jiff::tz::TimeZone;

use super::{Color, Exit, FailOn, screen::Screen};
use crate::{
    bundle,
    daemon::{
        Sink,
        replay::{Run, replay},
    },
    evidence::Reader,
    model::{Body, Record},
    next_step::NextStep as _,
    profile::Span,
    redact::printable,
    report::{
        diff,
        digest::{Digest, Report},
        html, junit, markdown, terminal_width, text,
    },
    roster::Roster,
};

/// Flags of `report`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What `slashtrace record` made (the folder, its archive, or the evidence in it), or evidence
    /// of `run`; `-` for stdin
    #[arg(required_unless_present = "diff")]
    bundle: Option<PathBuf>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Write into this file instead of stdout; one that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare two recordings, say before and after a fix: what leaked then, what now
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with = "bundle")]
    diff: Option<Vec<PathBuf>>,
    /// Which recording of a file that holds several, from 1; the last one by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    run: Option<u64>,
    /// Of a folder that `run` keeps: from the file on that was being written this long ago
    #[arg(long, value_name = "TIME")]
    since: Option<Span>,
    #[command(flatten)]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// For the terminal
    Text,
    /// For an issue; below 60,000 characters
    Markdown,
    /// One file for the browser, drawn
    Html,
    /// Data
    Json,
    /// Test results, a test case a session
    Junit,
}

/// Judges a recording again and writes what it comes to.
pub fn run(args: &Args, color: Color) -> Result<Exit> {
    if let Some([before, after]) = args.diff.as_deref() {
        return compare(args, before, after, color);
    }
    let path = args.bundle.as_deref().context("clap asks for it")?;
    let read = read(path, args.run, args.since)?;
    if read.run.difference.is_some() {
        Screen::stderr(color).line(&format!(
            "recorded by slashtrace {}; judged again by the rules of this one, which come to other \
             findings",
            printable(&read.run.recorded_by())
        ));
    }
    if read.runs > 1 && args.run.is_none() {
        Screen::stderr(color).line(&format!(
            "{} holds {} recordings; this is the last one, --run N shows another",
            path.display(),
            read.runs
        ));
    }
    let bytes = read.render(args.format, args.output.is_none())?;
    put(args, &bytes, color)?;
    let tally = &read.run.tally;
    Ok(Exit::of(tally, args.fail_on.fails(tally), None))
}

fn put(args: &Args, bytes: &[u8], color: Color) -> Result<()> {
    let text = args.format == Format::Text;
    match &args.output {
        Some(path) if text => {
            let mut out = color.stream(Vec::new());
            out.write_all(bytes)?;
            bundle::replace(path, &out.into_inner())
        }
        Some(path) => bundle::replace(path, bytes),
        None => Ok(color.stdout(!text).write_all(bytes)?),
    }
}

fn compare(args: &Args, before: &Path, after: &Path, color: Color) -> Result<Exit> {
    let (before, after) = (read(before, None, None)?, read(after, None, None)?);
    let diff = diff::compare(&before.of.digest.report(), &after.of.digest.report());
    let mut bytes = Vec::new();
    match args.format {
        Format::Text => diff.text(&mut bytes)?,
        Format::Markdown => bytes = diff.markdown().into_bytes(),
        Format::Json => bytes = (serde_json::to_string_pretty(&diff)? + "\n").into_bytes(),
        Format::Html | Format::Junit => {
            return Err(anyhow!("there is no such form of a comparison"))
                .next_step("use --format text, markdown or json");
        }
    }
    put(args, &bytes, color)?;
    let tally = &after.run.tally;
    Ok(Exit::of(tally, args.fail_on.fails(tally), None))
}

/// A recording that was judged again.
struct Read {
    run: Run,
    /// How many there are in the file.
    runs: u64,
    of: OfRun,
}

/// The digest of one recording of a file.
struct OfRun {
    /// Which one; none for the last.
    wanted: Option<u64>,
    at: u64,
    /// To which one each `start` belongs.
    starts: Vec<u64>,
    digest: Digest,
}

impl Sink for OfRun {
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        if let Body::Start(start) = &record.body {
            let goes_on = start.resumed && self.at > 0;
            self.at += u64::from(!goes_on);
            self.starts.push(self.at);
            if self.is_wanted() && !goes_on {
                self.digest = Digest::new();
            }
        }
        if self.is_wanted() { self.digest.record(record, roster) } else { Ok(()) }
    }

    fn recall(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        if self.is_wanted() { self.digest.recall(record, roster) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl OfRun {
    fn is_wanted(&self) -> bool {
        self.wanted.is_none_or(|wanted| wanted == self.at)
    }
}

fn read(path: &Path, wanted: Option<u64>, since: Option<Span>) -> Result<Read> {
    let since = since.map(super::ago).transpose()?;
    let reader = Reader::open_since(path, since)?;
    let mut of = OfRun { wanted, at: 0, starts: Vec::new(), digest: Digest::new() };
    let replayed = replay(reader, vec![&mut of])
        .with_context(|| format!("cannot report on {}", path.display()))?;
    // A file that ends too early is what there is: the report says so.
    if let Some(defect) = replayed.defect.as_ref().filter(|defect| !defect.is_truncation()) {
        return Err(anyhow!("{}: {defect}", path.display())).next_step(defect.next_step());
    }
    let runs = of.at;
    let at = wanted.unwrap_or(runs);
    // A recording that goes on after a restart is one; what it came to is known at its end.
    let Some(run) = replayed.runs.into_iter().zip(&of.starts).rfind(|(_, of)| **of == at) else {
        return Err(anyhow!("{} holds {runs} recordings", path.display()))
            .next_step(format!("give --run a number up to {runs}"));
    };
    let (run, _) = run;
    // Another build's rules are not these: what is said is what these say.
    let same_rules = !run.is_by_another_build();
    if let Some(difference) = run.difference.as_ref().filter(|_| same_rules) {
        let what = "the findings are not the recorded ones, first after seq";
        return Err(anyhow!("{}: {what} {}", path.display(), difference.seq))
            .next_step("ask `slashtrace replay` what differs");
    }
    Ok(Read { run, runs, of })
}

impl Read {
    fn render(&self, format: Format, to_stdout: bool) -> Result<Vec<u8>> {
        let report: Report = self.of.digest.report();
        let zone = TimeZone::system();
        let mut bytes = Vec::new();
        match format {
            Format::Text => {
                let width = terminal_width(io::stdout()).filter(|_| to_stdout);
                text::render(&report, width, &zone, &mut bytes)?;
            }
            Format::Markdown => bytes = markdown::render(&report, &zone).into_bytes(),
            Format::Html => html::render(&report, &mut bytes)?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut bytes, &report)?;
                bytes.push(b'\n');
            }
            Format::Junit => bytes = junit::render(&report).into_bytes(),
        }
        Ok(bytes)
    }
}
