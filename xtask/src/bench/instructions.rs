//! Instructions per record, counted by callgrind: the same on any machine, so a check.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Bench,
    plot::Series,
    process,
    table::{Figure, Row, Sort, Target, number},
};
use crate::{checkout, step};

/// How much CPU time one run under valgrind may take; a cost that does not grow takes seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// How much more a record may cost at the largest size than at the smallest.
const GROWTH: f64 = 1.2;
/// Sizes of the histories, in records. The one in the middle is there to fail early.
const SIZES: [u64; 3] = [2_000, 20_000, 200_000];
/// What slashtrace/benches/instructions measures, and the histories that it makes.
const SUBJECTS: [&str; 3] = ["decoder", "roster", "pipeline"];
const HISTORIES: [&str; 5] = ["ended", "restarts", "sessions", "gateways", "mixed"];

/// Builds slashtrace/benches/instructions, and returns the program.
pub(crate) fn build() -> Result<PathBuf> {
    eprintln!("==> build (counting bench)");
    let arguments = ["bench", "--package", "slashtrace", "--bench", "instructions", "--no-run"];
    let mut cargo = checkout::cargo(&arguments);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let messages = step::output(cargo.arg("--target-dir").arg(checkout::target()))?;
    let program = messages.lines().rev().find_map(executable).context("cargo named no program")?;
    eprintln!("    {}", program.display());
    Ok(program)
}

/// The program that a message of cargo names.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == "instructions").then_some(())?;
    message["executable"].as_str().map(PathBuf::from)
}

/// Writes the mixed history as a file of evidence.
pub(crate) fn write(bench: &Bench, records: u64, file: &Path) -> Result<()> {
    let mut command = Command::new(bench.counting()?);
    command.args(["write", "mixed", &records.to_string()]).arg(file);
    step::output(&mut command).map(drop)
}

/// Every subject over every history, at each size until one has grown too much.
pub(crate) fn rows(bench: &Bench, counts: &mut Vec<Series>) -> Result<Vec<Row>> {
    ensure!(bench.has_valgrind, "valgrind is missing: `apt-get install valgrind`");
    let jobs = SUBJECTS.iter().flat_map(|subject| HISTORIES.map(|history| (*subject, history)));
    let mut rows = Vec::new();
    for (subject, history) in jobs {
        eprintln!("    instructions: {subject}, {history}");
        let mut points: Vec<(f64, f64)> = Vec::new();
        for size in SIZES {
            let Some(each) = measure(bench, subject, history, size)? else {
                let records = number(size as f64);
                eprintln!("    {records} records: ended after {} s of CPU", PATIENCE.as_secs());
                break;
            };
            points.push((size as f64, each));
            if points.last().is_some_and(|last| last.1 > points[0].1 * 1.5) {
                break;
            }
        }
        rows.push(row(subject, history, &points));
        counts.push(Series { name: format!("{subject}, {history}"), points });
    }
    Ok(rows)
}

fn row(subject: &str, history: &str, points: &[(f64, f64)]) -> Row {
    let largest = SIZES[SIZES.len() - 1] as f64;
    let what = format!(
        "instructions per record, {subject}, {history}: at {} (ratio to {})",
        number(largest),
        number(SIZES[0] as f64)
    );
    let at_largest = points.last().filter(|last| last.0 >= largest);
    let figure = at_largest.map_or(Figure::default(), |last| Figure::one(last.1));
    let row = Row::new(Sort::Count, what, figure).target(Target::RatioAtMost(GROWTH));
    match (points.first(), points.last()) {
        // Where it stopped early, how much it had grown by then, or that it did not end in time.
        (Some(first), Some(last)) if at_largest.is_some() || last.1 > first.1 * GROWTH => {
            row.ratio(last.1 / first.1)
        }
        _ => row,
    }
}

/// Instructions per record; none if it did not end in time.
fn measure(bench: &Bench, subject: &str, history: &str, records: u64) -> Result<Option<f64>> {
    let mut command = valgrind(bench);
    // Only what happens within this function counts: not how the history is made.
    command.args(["--collect-atstart=no", "--toggle-collect=slashtrace_bench_measured"]);
    command.arg(bench.counting()?).args([subject, history, &records.to_string()]);
    Ok(collected(&mut command, PATIENCE)?.map(|all| all as f64 / records as f64))
}

/// Callgrind, for a program that is to follow.
pub(crate) fn valgrind(bench: &Bench) -> Command {
    let mut command = Command::new("valgrind");
    let out = bench.folder.join("callgrind.out");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display()));
    command
}

/// Runs it, and returns the instructions that it counted; none if it took more CPU time than
/// `most`.
pub(crate) fn collected(command: &mut Command, most: Duration) -> Result<Option<u64>> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start valgrind")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let most = u64::try_from(most.as_nanos())?;
    while child.try_wait()?.is_none() {
        // Not by the clock: a busy machine would decide what is measured.
        if process::cpu_ns(child.id()).is_ok_and(|ns| ns > most) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let Ok(text) = reader.join() else { bail!("the reader of valgrind's output failed") };
    let text = text?;
    parse(&text).with_context(|| format!("valgrind counted nothing: {text}")).map(Some)
}

/// `==7== Collected : 4711`
fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_what_valgrind_says() {
        assert_eq!(parse("==7== Events    : Ir\n==7== Collected : 4711\n==7== \n"), Some(4711));
        assert_eq!(parse("==7== nothing"), None);
    }

    #[test]
    fn the_program_is_the_one_that_cargo_names() {
        let message = r#"{"target":{"name":"instructions"},"executable":"/t/instructions-1"}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/t/instructions-1")));
        assert_eq!(executable(r#"{"target":{"name":"slashtrace"},"executable":"/t/s"}"#), None);
        assert_eq!(executable("warning"), None);
    }

    #[test]
    fn growth_fails_wherever_it_was_noticed() {
        let met = |points: &[(f64, f64)]| row("pipeline", "mixed", points).met();
        assert_eq!(met(&[(2e3, 100.0), (2e4, 101.0), (2e5, 119.0)]), Some(true));
        assert_eq!(met(&[(2e3, 100.0), (2e4, 119.0), (2e5, 121.0)]), Some(false));
        assert_eq!(met(&[(2e3, 100.0), (2e4, 500.0)]), Some(false), "it stopped early");
        assert_eq!(met(&[(2e3, 100.0), (2e4, 101.0)]), Some(false), "it did not end in time");
        assert_eq!(met(&[]), Some(false));
    }
}
