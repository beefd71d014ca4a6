//! What a record costs, to be counted by callgrind: whatever happens within
//! [`slashtrace_bench_measured`], and nothing else, is the subject's work. Run by
//! `cargo xtask bench --only instructions`, which compares the cost per record at several sizes.
//!
//! ```text
//! instructions decoder|roster|pipeline HISTORY RECORDS
//! instructions write HISTORY RECORDS FILE
//! ```

mod histories;

use std::{
    env,
    fs::File,
    hint::black_box,
    io::{BufWriter, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use slashtrace::{daemon::pipeline::Pipeline, model::Record, profile::Profile, roster::Roster};

use histories::History;

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // `cargo bench` without more: there is nothing to say without callgrind.
        [] | ["--bench"] => {
            eprintln!("run `cargo xtask bench --only instructions`");
            Ok(())
        }
        ["write", history, records, file] => write(history, records.parse()?, file),
        [subject, history, records] => {
            let mut subject: Box<dyn Subject> = match subject {
                "decoder" => Box::new(Decoder),
                "roster" => Box::new(Folded(Roster::new(&Profile::hermes()))),
                "pipeline" => Box::new(Pipelined(Pipeline::new(&Profile::hermes(), Vec::new()))),
                other => bail!("no subject `{other}`: decoder, roster, pipeline"),
            };
            History::named(history)?.lines().take(records.parse()?).try_for_each(|line| {
                let record = serde_json::from_str(&line).context("a history's line")?;
                slashtrace_bench_measured(subject.as_mut(), &line, &record)
            })
        }
        _ => bail!("see the start of slashtrace/benches/instructions/main.rs"),
    }
}

/// Something that is given one record after the other.
trait Subject {
    fn observe(&mut self, line: &str, record: &Record) -> Result<()>;
}

/// A line of evidence to a record.
struct Decoder;

impl Subject for Decoder {
    fn observe(&mut self, line: &str, _record: &Record) -> Result<()> {
        let record: Record = serde_json::from_str(black_box(line))?;
        black_box(record);
        Ok(())
    }
}

/// All that is known of a recording.
struct Folded(Roster);

impl Subject for Folded {
    fn observe(&mut self, _line: &str, record: &Record) -> Result<()> {
        self.0.observe(black_box(record));
        Ok(())
    }
}

/// All that is known and judged of a recording, without sinks.
struct Pipelined(Pipeline<'static>);

impl Subject for Pipelined {
    fn observe(&mut self, _line: &str, record: &Record) -> Result<()> {
        black_box(self.0.record(black_box(record))?);
        Ok(())
    }
}

/// The function that callgrind collects in: it is found by its name.
// SAFETY: nothing else in the program has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn slashtrace_bench_measured(
    subject: &mut dyn Subject,
    line: &str,
    record: &Record,
) -> Result<()> {
    subject.observe(line, record)
}

/// A history as evidence without findings. `slashtrace replay` judges it, and says that findings are
/// not in it.
fn write(history: &str, records: usize, file: &str) -> Result<()> {
    let mut out = BufWriter::new(File::create(file).with_context(|| file.to_owned())?);
    for line in History::named(history)?.lines().take(records) {
        writeln!(out, "{line}")?;
    }
    out.flush().context("cannot write the history")
}
