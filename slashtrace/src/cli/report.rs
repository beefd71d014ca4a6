use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use jiff::tz::TimeZone;

use super::{Color, Exit, FailOn};
use crate::{
    bundle,
    daemon::replay::{Replayed, replay},
    evidence::Reader,
    next_step::NextStep as _,
    report::{
        diff,
        digest::{Digest, Report},
        html, junit, markdown, terminal_width, text,
    },
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
    let read = read(path)?;
    let bytes = read.render(args.format, args.output.is_none())?;
    put(args, &bytes, color)?;
    let tally = &read.replayed.tally;
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
    let (before, after) = (read(before)?, read(after)?);
    let diff = diff::compare(&before.digest.report(), &after.digest.report());
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
    let tally = &after.replayed.tally;
    Ok(Exit::of(tally, args.fail_on.fails(tally), None))
}

/// A recording that was judged again.
struct Read {
    replayed: Replayed,
    digest: Digest,
}

fn read(path: &Path) -> Result<Read> {
    let reader = Reader::open(path)?;
    let mut digest = Digest::new();
    let replayed = replay(reader, vec![&mut digest])
        .with_context(|| format!("cannot report on {}", path.display()))?;
    // A file that ends too early is what there is: the report says so.
    if let Some(defect) = replayed.defect.as_ref().filter(|defect| !defect.is_truncation()) {
        return Err(anyhow!("{}: {defect}", path.display())).next_step(defect.next_step());
    }
    if let Some(difference) = &replayed.difference {
        let what = "the findings are not the recorded ones, first after seq";
        return Err(anyhow!("{}: {what} {}", path.display(), difference.seq))
            .next_step("ask `slashtrace replay` what differs");
    }
    Ok(Read { replayed, digest })
}

impl Read {
    fn render(&self, format: Format, to_stdout: bool) -> Result<Vec<u8>> {
        let report: Report = self.digest.report();
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
