use std::{collections::VecDeque, io::BufRead};

use anyhow::{Result, bail};

use super::{Sink, pipeline::Pipeline, tally::Tally};
use crate::{
    evidence::{Defect, Reader, line},
    model::{Body, Record},
};

/// What came of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// Version of slashtrace that recorded it.
    pub version: String,
    /// Findings made again.
    pub findings: u64,
    /// The first place where they are not the recorded ones.
    pub difference: Option<Difference>,
    /// Why the file could not be read to its end; what stood before was judged.
    pub defect: Option<Defect>,
    /// What the recording comes to.
    pub tally: Tally,
}

/// A place where the findings made again are not the recorded ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// `seq` of the record behind which it is.
    pub seq: u64,
    /// What the file has there, as a line.
    pub recorded: Option<String>,
    /// What was found there now, as a line.
    pub replayed: Option<String>,
}

/// Judges what `reader` has. The sinks get every observation, and the findings made again in place
/// of the recorded ones.
///
/// # Errors
/// If there is no valid `start` record, or a sink fails.
pub fn replay<R: BufRead>(
    mut reader: Reader<R>,
    mut sinks: Vec<&mut dyn Sink>,
) -> Result<Replayed> {
    let first = match reader.next() {
        Some(Ok(first)) => first,
        Some(Err(defect)) => bail!("{defect}\nnext step: {}", defect.next_step()),
        None => bail!("there is no record"),
    };
    let Body::Start(start) = &first.body else { bail!("line 1: not a `start` record") };
    if let Err(error) = start.profile.check() {
        bail!(
            "line 1: the profile in it is not valid: {error}\n\
             next step: get the file again from where it was recorded"
        );
    }
    let mut again = Again::default();
    let version = start.version.clone();
    let mut pipeline = Pipeline::new(
        start.profile.clone(),
        sinks.iter_mut().map(|sink| &mut **sink as &mut dyn Sink).collect(),
    );
    let mut defect = None;
    for record in std::iter::once(Ok(first)).chain(reader) {
        match record {
            Ok(record) if matches!(record.body, Body::Finding(_)) => again.recorded(&record)?,
            Ok(record) => again.observed(record.seq, pipeline.record(&record)?)?,
            Err(found) => {
                defect = Some(found);
                break;
            }
        }
    }
    // A file that was cut off may lack the findings of its last record.
    if pipeline.tally().stopped() && defect.is_none() {
        again.observed(0, Vec::new())?;
    }
    pipeline.flush()?;
    let (findings, difference) = (again.findings, again.difference);
    Ok(Replayed { version, findings, difference, defect, tally: pipeline.into_tally() })
}

/// The findings made again, held against the recorded ones as those come.
#[derive(Default)]
struct Again {
    findings: u64,
    /// Those of the last observation that were not found in the file yet.
    expected: VecDeque<Record>,
    /// `seq` of the last observation.
    cause: u64,
    difference: Option<Difference>,
}

impl Again {
    /// A recorded finding must be the next one that was made again.
    fn recorded(&mut self, record: &Record) -> Result<()> {
        let replayed = self.expected.pop_front();
        self.compare(Some(record), replayed.as_ref())
    }

    /// At a further observation every finding of the one before must have been in the file.
    fn observed(&mut self, seq: u64, findings: Vec<Record>) -> Result<()> {
        while let Some(missing) = self.expected.pop_front() {
            self.compare(None, Some(&missing))?;
        }
        self.findings += findings.len() as u64;
        self.expected = findings.into();
        self.cause = seq;
        Ok(())
    }

    /// Remembers the first difference, byte for byte.
    fn compare(&mut self, recorded: Option<&Record>, replayed: Option<&Record>) -> Result<()> {
        if self.difference.is_none() {
            let recorded = recorded.map(line).transpose()?;
            let replayed = replayed.map(line).transpose()?;
            if recorded != replayed {
                self.difference = Some(Difference { seq: self.cause, recorded, replayed });
            }
        }
        Ok(())
    }
}
