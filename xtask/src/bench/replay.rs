//! What `slashtrace replay` costs per record, by how many there are.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Bench, instructions,
    plot::Series,
    process,
    table::{Figure, Row, Sort, Target, number},
};

/// How much more a record may cost at the largest size than at the smallest.
const GROWTH: f64 = 1.2;

/// Recordings of the mixed history, the same from run to run.
pub(crate) fn rows(
    bench: &Bench,
    times: &mut Vec<Series>,
    counts: &mut Vec<Series>,
) -> Result<Vec<Row>> {
    let sizes: &[u64] = if bench.quick { &[2_000, 30_000] } else { &[2_000, 30_000, 200_000] };
    let rounds = if bench.quick { 3 } else { 5 };
    let most = Duration::from_secs(if bench.quick { 60 } else { 400 });
    let folder = &bench.folder;
    let file = |records: u64| folder.join(format!("replay-{records}.ndjson"));
    // The first has next to nothing in it: what it takes is the start of the program.
    for &records in [1].iter().chain(sizes) {
        instructions::write(bench, records, &file(records))?;
    }
    let mut figures = vec![Figure::default(); sizes.len()];
    for round in 1..=rounds {
        eprintln!("    replay: round {round} of {rounds}");
        let start = cpu_ns(bench, &file(1), most)?.context("an empty recording takes long")?;
        for (&records, figure) in sizes.iter().zip(&mut figures) {
            // One that took too long once is not tried again; long ones are measured once or twice.
            let again = round == 1 || (!figure.0.is_empty() && (records < 100_000 || round == 2));
            if !again {
                continue;
            }
            match cpu_ns(bench, &file(records), most)? {
                Some(ns) => figure.0.push(ns.saturating_sub(start) as f64 / 1e3 / records as f64),
                None => eprintln!(
                    "    replay of {} records: ended after {} s of CPU",
                    number(records as f64),
                    most.as_secs()
                ),
            }
        }
    }
    let counted: Vec<f64> =
        if bench.has_valgrind { counted(bench, sizes, &file)? } else { Vec::new() };
    for records in [1].iter().chain(sizes) {
        std::fs::remove_file(file(*records))?;
    }
    let series = |name: &str, costs: Vec<f64>| Series {
        name: name.to_owned(),
        points: sizes.iter().map(|&size| size as f64).zip(costs).filter(|p| p.1 > 0.0).collect(),
    };
    times.push(series("replay, CPU per record", figures.iter().map(Figure::median).collect()));
    let mut rows = grown(sizes, &figures, Sort::Time, "CPU per record, µs");
    if !counted.is_empty() {
        counts.push(series("replay", counted.clone()));
        let counted: Vec<Figure> = counted.into_iter().map(Figure::one).collect();
        rows.extend(grown(sizes, &counted, Sort::Count, "instructions per record"));
    }
    Ok(rows)
}

/// A row for each size; the largest is held against the smallest.
fn grown(sizes: &[u64], figures: &[Figure], sort: Sort, what: &str) -> Vec<Row> {
    let of = |(&size, figure): (&u64, &Figure)| {
        let what = format!("replay, {} records: {what}", number(size as f64));
        let row = Row::new(sort, what, figure.clone());
        let small = figures[0].median();
        match Some(&size) == sizes.last() {
            // One that could not be measured has no ratio, and so does not meet it.
            true if figure.0.is_empty() => row.target(Target::RatioAtMost(GROWTH)),
            true => row.ratio(figure.median() / small).target(Target::RatioAtMost(GROWTH)),
            false => row,
        }
    };
    sizes.iter().zip(figures).map(of).collect()
}

/// Instructions per record, by valgrind, for as many sizes as end in time.
fn counted(
    bench: &Bench,
    sizes: &[u64],
    file: &dyn Fn(u64) -> std::path::PathBuf,
) -> Result<Vec<f64>> {
    let count = |records: u64| {
        eprintln!("    replay: instructions over {} records", number(records as f64));
        let mut replay = instructions::valgrind(bench);
        replay.arg(&bench.program).args(["replay", "--json"]).arg(file(records));
        instructions::collected(&mut replay, instructions::PATIENCE)
    };
    let Some(start) = count(1)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for &records in sizes {
        let Some(all) = count(records)? else { break };
        found.push((all - start) as f64 / records as f64);
        // Under valgrind everything takes 50 times as long: what grows is known to be out by then.
        if found.last() > found.first().map(|first| first * 1.5).as_ref() {
            break;
        }
    }
    Ok(found)
}

/// CPU time of a replay, ns; none if it took more than `most` and was ended.
fn cpu_ns(bench: &Bench, file: &Path, most: Duration) -> Result<Option<u64>> {
    let mut command = Command::new(&bench.program);
    command.args(["replay", "--json"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start slashtrace replay")?;
    let most = u64::try_from(most.as_nanos())?;
    // Until it is waited for, what it took can be read.
    while process::state(child.id()) != Some('Z') {
        if process::cpu_ns(child.id()).is_ok_and(|ns| ns > most) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let took = process::cpu_ns(child.id())?;
    child.wait()?;
    Ok(Some(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_recording_is_judged() {
        let sizes = [2_000, 30_000];
        let figures = [Figure::one(20.0), Figure::one(30.0)];
        let rows = grown(&sizes, &figures, Sort::Time, "µs");
        assert_eq!(rows.iter().map(Row::met).collect::<Vec<_>>(), [None, Some(false)]);
        let rows = grown(&sizes, &[Figure::one(20.0), Figure::default()], Sort::Time, "µs");
        assert_eq!(rows[1].met(), Some(false), "what was not measured is not met");
    }
}
