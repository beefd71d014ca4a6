use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Color, Exit};
use crate::{
    daemon::{Sink, pipeline::Pipeline},
    evidence::{self, Evidence},
    model::{Body, Record},
    report::{live::Live, table::Table},
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
}

/// Judges a recording again and compares with what it says.
pub fn run(args: &Args, color: Color, out: &mut dyn Write) -> Result<Exit> {
    let evidence = evidence::read(open(&args.file)?)
        .with_context(|| format!("cannot replay {}", args.file.display()))?;
    let again = judge(&evidence, args.table.then(|| color.on(io::stderr().is_terminal())))?;
    if args.json || !io::stdout().is_terminal() {
        for record in &again {
            serde_json::to_writer(&mut *out, record)?;
            out.write_all(b"\n")?;
        }
    } else {
        let mut live = Live::new(Box::new(io::stdout()), color.on(true));
        again.iter().try_for_each(|record| live.record(record))?;
    }
    out.flush()?;

    if let Some(damage) = &evidence.damage {
        bail!(
            "{}: line {}: {}\n{} records before it were whole and were judged: {}\n\
             next step: copy the file again from where it was recorded; if it is the original, \
             the recording was cut short",
            args.file.display(),
            damage.line,
            damage.reason,
            evidence.records.len(),
            count(again.len()),
        );
    }
    compare(&evidence, &again)?;
    let complete = evidence.records.iter().rev().find_map(|record| match &record.body {
        Body::Stop(stop) => Some(stop.complete),
        _ => None,
    });
    eprintln!("{}, identical to the recorded", count(again.len()));
    match complete {
        Some(true) => Ok(Exit::Fine),
        Some(false) => {
            eprintln!("the recording is incomplete: see its gap records");
            Ok(Exit::Incomplete)
        }
        None => {
            eprintln!("the recording was not ended in order: it has no stop record");
            Ok(Exit::Incomplete)
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The findings that the observations give now.
fn judge(evidence: &Evidence, table_color: Option<bool>) -> Result<Vec<Record>> {
    let mut findings = Findings::default();
    let mut table = Table::new();
    let mut pipeline = Pipeline::new(
        evidence.start()?.profile.clone(),
        vec![&mut findings as &mut dyn Sink, &mut table],
    );
    let observations = evidence.records.iter().filter(|r| !matches!(r.body, Body::Finding(_)));
    for record in observations {
        pipeline.record(record)?;
    }
    drop(pipeline);
    if let Some(color) = table_color {
        table.render(&mut io::stderr().lock(), color)?;
    }
    Ok(findings.records)
}

/// Compares the findings of the recording with those made now, byte for byte.
fn compare(evidence: &Evidence, again: &[Record]) -> Result<()> {
    let recorded = evidence.records.iter().filter(|r| matches!(r.body, Body::Finding(_)));
    let mut again = again.iter();
    for record in recorded {
        let now = again.next();
        let (was, is) =
            (serde_json::to_string(record)?, now.map(serde_json::to_string).transpose()?);
        if is.as_ref() != Some(&was) {
            bail!(
                "the findings differ from the recorded, first at seq {}:\n  recorded: {was}\n  \
                 now:      {}\nnext step: replay with slashtrace {}, which recorded it",
                record.seq,
                is.as_deref().unwrap_or("nothing"),
                evidence.start()?.version,
            );
        }
    }
    if let Some(more) = again.next() {
        bail!(
            "a finding at seq {} is not in the recording: {}\nnext step: replay with slashtrace \
             {}, which recorded it",
            more.seq,
            serde_json::to_string(more)?,
            evidence.start()?.version,
        );
    }
    Ok(())
}

fn count(findings: usize) -> String {
    match findings {
        1 => "1 finding record reproduced".to_owned(),
        n => format!("{n} finding records reproduced"),
    }
}

/// Keeps findings.
#[derive(Debug, Default)]
struct Findings {
    records: Vec<Record>,
}

impl Sink for Findings {
    fn record(&mut self, record: &Record) -> Result<()> {
        if matches!(record.body, Body::Finding(_)) {
            self.records.push(record.clone());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
