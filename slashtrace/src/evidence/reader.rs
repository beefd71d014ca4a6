use std::io::{self, BufRead};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::model::{Body, FORMAT_VERSION, Record, Start};

/// What was read of an evidence file.
#[derive(Debug)]
pub struct Evidence {
    /// Every whole record, in order; the first is `start`.
    pub records: Vec<Record>,
    /// Where the file is damaged. What stands before that is in `records`.
    pub damage: Option<Damage>,
}

/// Where and why an evidence file cannot be read further.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Evidence {
    /// The `start` record.
    pub fn start(&self) -> Result<&Start> {
        match self.records.first().map(|record| &record.body) {
            Some(Body::Start(start)) => Ok(start),
            _ => bail!("the evidence has no start record"),
        }
    }
}

/// Version of a line, to tell a newer format from a damaged one.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Reads evidence. Stops at the first line that is not whole or not in its place, and keeps what
/// stands before.
///
/// # Errors
/// If it cannot be read, has no start record, or was written in a newer format.
pub fn read(mut from: impl BufRead) -> Result<Evidence> {
    let mut records: Vec<Record> = Vec::new();
    let mut damage = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if read_line(&mut from, &mut line).context("cannot read the evidence")? == 0 {
            break;
        }
        match parse(&line, records.last())
            .with_context(|| format!("line {number} of the evidence"))?
        {
            Ok(record) => records.push(record),
            Err(reason) => {
                damage = Some(Damage { line: number, reason });
                break;
            }
        }
    }
    let evidence = Evidence { records, damage };
    if evidence.records.is_empty() {
        match &evidence.damage {
            Some(damage) => bail!("line {}: {}: nothing before it", damage.line, damage.reason),
            None => bail!("the evidence is empty"),
        }
    }
    evidence.start().context("this is not evidence of slashtrace from its beginning")?;
    Ok(evidence)
}

fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    from.read_until(b'\n', line)
}

/// The outer error is final; the inner one is damage.
fn parse(line: &[u8], before: Option<&Record>) -> Result<Result<Record, String>> {
    let Some(text) = line.strip_suffix(b"\n") else {
        return Ok(Err("it is cut off: the line has no end".to_owned()));
    };
    if let Ok(Version { v }) = serde_json::from_slice(text)
        && v > FORMAT_VERSION
    {
        bail!(
            "format version {v} is newer than this slashtrace, which reads {FORMAT_VERSION}\n\
             next step: use the slashtrace that wrote it, or a newer one"
        );
    }
    let record: Record = match serde_json::from_slice(text) {
        Ok(record) => record,
        Err(error) => return Ok(Err(format!("it is not a record: {error}"))),
    };
    let expected = before.map_or(1, |before| before.seq + 1);
    if record.seq != expected {
        return Ok(Err(format!("seq {} where {expected} is due: lines are missing", record.seq)));
    }
    Ok(Ok(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> String {
        let start = include_str!("fixtures/start.ndjson");
        let mut text = start.trim_end().to_owned() + "\n";
        for seq in 2..=count {
            text += &format!(
                r#"{{"v":1,"seq":{seq},"time":"2026-11-24T00:00:00Z","boottime_ns":{seq},"type":"tick"}}"#
            );
            text.push('\n');
        }
        text
    }

    #[test]
    fn whole_evidence_is_read_whole() {
        let evidence = read(lines(3).as_bytes()).unwrap();
        assert_eq!((evidence.records.len(), evidence.damage), (3, None));
    }

    #[test]
    fn a_line_that_is_cut_off_is_named_and_the_rest_kept() {
        let text = lines(3);
        let evidence = read(&text.as_bytes()[..text.len() - 10]).unwrap();
        assert_eq!(evidence.records.len(), 2);
        let damage = evidence.damage.unwrap();
        assert_eq!(damage.line, 3);
        assert!(damage.reason.contains("cut off"), "{}", damage.reason);
        // Also where only the line's end is missing: it may be half a number.
        let evidence = read(&text.as_bytes()[..text.len() - 1]).unwrap();
        assert_eq!((evidence.records.len(), evidence.damage.map(|d| d.line)), (2, Some(3)));
    }

    #[test]
    fn a_missing_line_is_damage() {
        let text = lines(4);
        let without: Vec<&str> =
            text.lines().enumerate().filter(|(i, _)| *i != 2).map(|(_, l)| l).collect();
        let evidence = read((without.join("\n") + "\n").as_bytes()).unwrap();
        let damage = evidence.damage.unwrap();
        assert_eq!((evidence.records.len(), damage.line), (2, 3));
        assert!(damage.reason.contains("seq 4 where 3 is due"), "{}", damage.reason);
    }

    #[test]
    fn what_is_no_evidence_is_refused() {
        for (text, reason) in [
            ("", "empty"),
            ("hello\n", "not a record"),
            ("{\"v\":99,\"seq\":1,\"type\":\"future\"}\n", "newer than this slashtrace"),
        ] {
            let error = format!("{:#}", read(text.as_bytes()).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
        let tick = lines(2).lines().nth(1).unwrap().replace("\"seq\":2", "\"seq\":1") + "\n";
        assert!(read(tick.as_bytes()).is_err());
    }
}
