//! What an evidence file comes to, as far as the bench asks: it is read line by line, without the
//! types of the workspace.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Counts of a recording.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// `spawn` records of workers.
    pub(crate) spawns: u64,
    /// `exit` records of workers.
    pub(crate) exits: u64,
    /// Whether the `stop` record says that nothing is known to be missing.
    pub(crate) complete: bool,
}

impl Counts {
    /// Of that many lives, the births and deaths that are not there.
    pub(crate) fn lost(&self, lives: u64) -> u64 {
        lives.saturating_sub(self.spawns) + lives.saturating_sub(self.exits)
    }
}

/// Counts what is in a file.
pub(crate) fn count(file: &Path) -> Result<Counts> {
    let reader = BufReader::new(
        fs::File::open(file).with_context(|| format!("no evidence in {}", file.display()))?,
    );
    let mut counts = Counts::default();
    for line in reader.lines() {
        observe(&mut counts, &line?);
    }
    Ok(counts)
}

/// Text within a value has its quotes escaped, so these are fields and nothing else.
fn observe(counts: &mut Counts, line: &str) {
    let worker = || line.contains("\"role\":\"worker\"");
    if line.contains("\"type\":\"spawn\"") {
        counts.spawns += u64::from(worker());
    } else if line.contains("\"type\":\"exit\"") {
        counts.exits += u64::from(worker());
    } else if line.contains("\"type\":\"stop\"") {
        counts.complete = line.contains("\"complete\":true");
    }
}

/// Bytes of a `sample` record in a file, on average; 0 without one.
pub(crate) fn bytes_of_samples(file: &Path) -> Result<f64> {
    let text =
        fs::read_to_string(file).with_context(|| format!("no evidence in {}", file.display()))?;
    let samples = text.split_inclusive('\n').filter(|line| line.contains("\"type\":\"sample\""));
    let (count, bytes) = samples.fold((0, 0), |(n, bytes), line| (n + 1, bytes + line.len()));
    Ok(bytes as f64 / f64::from(count.max(1)))
}

/// When the kernel saw the first worker, ns of the boot clock; none has been seen yet otherwise.
pub(crate) fn first_traced(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().filter(|line| line.contains("\"type\":\"spawn\"")).find_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        let traced = record["source"] == "kernel" && record["inherited"] != true;
        traced.then(|| record["boottime_ns"].as_u64())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_and_deaths_that_are_missing_are_lost() {
        let mut counts = Counts::default();
        for line in [
            r#"{"v":1,"type":"spawn","role":"worker","pid":1}"#,
            r#"{"v":1,"type":"spawn","role":"descendant","pid":2}"#,
            r#"{"v":1,"type":"spawn","role":"worker","pid":3}"#,
            r#"{"v":1,"type":"exit","role":"worker","pid":1}"#,
            r#"{"v":1,"type":"sample","comm":"\"type\":\"exit\" \"role\":\"worker\""}"#,
            r#"{"v":1,"type":"stop","complete":true}"#,
        ] {
            observe(&mut counts, line);
        }
        assert_eq!(counts, Counts { spawns: 2, exits: 1, complete: true });
        assert_eq!((counts.lost(2), counts.lost(3)), (1, 3));
    }

    #[test]
    fn the_first_traced_worker_is_one_that_the_kernel_saw() {
        let file = std::env::temp_dir().join(format!("slashtrace-bench-{}", std::process::id()));
        let lines = [
            r#"{"type":"spawn","source":"proc","inherited":true,"boottime_ns":5}"#,
            r#"{"type":"spawn","source":"kernel","boottime_ns":7}"#,
        ];
        fs::write(&file, lines[0]).expect("a file");
        assert_eq!(first_traced(&file), None);
        fs::write(&file, lines.join("\n")).expect("a file");
        assert_eq!(first_traced(&file), Some(7));
        fs::remove_file(file).expect("it was there");
    }
}
