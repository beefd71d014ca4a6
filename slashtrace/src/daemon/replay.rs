use std::{collections::VecDeque, io::BufRead};

use anyhow::{Result, anyhow, bail};

use super::{Sink, pipeline::Pipeline, start::COMMIT, tally::Tally};
use crate::{
    evidence::{Defect, Reader, line},
    model::{Body, GapReason, Record},
    next_step::NextStep as _,
};

/// What came of a replay: of each recording in the file.
#[derive(Debug)]
pub struct Replayed {
    /// The recordings, the earliest first; there is one at least.
    pub runs: Vec<Run>,
    /// Why the file could not be read to its end; what stood before was judged.
    pub defect: Option<Defect>,
    /// Lines that were cut off before the `start` of the next recording.
    pub torn: u64,
}

/// What came of one recording.
#[derive(Debug)]
pub struct Run {
    /// Version of slashtrace that recorded it, and the commit of that build.
    pub version: String,
    /// The commit of that build, if it is known.
    pub commit: Option<String>,
    /// Findings made again.
    pub findings: u64,
    /// Findings that were taken as they are: what they rest on is not in the file.
    pub taken: u64,
    /// The first place where they are not the recorded ones.
    pub difference: Option<Difference>,
    /// What the recording comes to.
    pub tally: Tally,
}

impl Run {
    /// Whether the build that recorded it may have judged by other rules than this one.
    pub fn is_by_another_build(&self) -> bool {
        let commits = self.commit.as_deref().zip(COMMIT);
        self.version != env!("CARGO_PKG_VERSION") || commits.is_some_and(|(it, ours)| it != ours)
    }

    /// Who recorded it: `0.1.0 (8c1ff53a1b2c)`.
    pub fn recorded_by(&self) -> String {
        match &self.commit {
            Some(commit) => format!("{} ({commit})", self.version),
            None => self.version.clone(),
        }
    }
}

impl Replayed {
    /// The last recording.
    pub fn last(&self) -> Option<&Run> {
        self.runs.last()
    }
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

/// Judges what `reader` has, each recording by itself. The sinks get every observation, and the
/// findings made again in place of the recorded ones. Where records are missing (a file that was
/// begun anew in the middle, a gap [`GapReason::NotWritten`]), findings from then on are taken as they
/// are.
///
/// # Errors
/// If there is no valid `start` record, or a sink fails.
pub fn replay<R: BufRead>(
    mut reader: Reader<R>,
    mut sinks: Vec<&mut dyn Sink>,
) -> Result<Replayed> {
    let mut next = match reader.next() {
        Some(Ok(first)) => Some(first),
        Some(Err(defect)) => {
            let step = defect.next_step();
            return Err(defect).next_step(step);
        }
        None => bail!("there is no record"),
    };
    let (mut runs, mut defect) = (Vec::new(), None);
    while let Some(first) = next.take() {
        let lent = sinks.iter_mut().map(|sink| &mut **sink as &mut dyn Sink).collect();
        let run = replay_run(&first, &mut reader, lent, &mut next, &mut defect)?;
        runs.push(run);
    }
    Ok(Replayed { runs, defect, torn: reader.torn() })
}

/// Judges one recording; leaves the `start` of the next in `next`.
fn replay_run<R: BufRead>(
    first: &Record,
    reader: &mut Reader<R>,
    sinks: Vec<&mut dyn Sink>,
    next: &mut Option<Record>,
    defect: &mut Option<Defect>,
) -> Result<Run> {
    let line = reader.line();
    let Body::Start(start) = &first.body else { bail!("line {line}: not a `start` record") };
    if let Err(error) = start.profile.check() {
        return Err(anyhow!("line {line}: the profile in it is not valid: {error}"))
            .next_step("get the file again from where it was recorded");
    }
    let mut again = Again::default();
    let (version, commit) = (start.version.clone(), start.commit.clone());
    // Whether everything that findings rest on is there.
    let mut whole = !start.continued;
    let mut pipeline = Pipeline::new(&start.profile, sinks);
    again.observed(first.seq, pipeline.record(first)?)?;
    let mut taken = 0;
    for record in &mut *reader {
        match record {
            Ok(record) if matches!(record.body, Body::Start(_)) => {
                *next = Some(record);
                break;
            }
            Ok(record) if !whole => {
                taken += u64::from(matches!(record.body, Body::Finding(_)));
                pipeline.take(&record)?;
            }
            Ok(record) if matches!(record.body, Body::Finding(_)) => again.recorded(&record)?,
            Ok(record) => {
                whole =
                    !matches!(&record.body, Body::Gap(gap) if gap.reason == GapReason::NotWritten);
                if whole {
                    again.observed(record.seq, pipeline.record(&record)?)?;
                } else {
                    // Findings that were not written are no difference.
                    again.forget();
                    pipeline.take(&record)?;
                }
            }
            Err(found) => {
                *defect = Some(found);
                break;
            }
        }
    }
    // A recording that was cut off may lack the findings of its last record.
    if pipeline.tally().stopped() && defect.is_none() && whole {
        again.observed(0, Vec::new())?;
    }
    pipeline.flush()?;
    let (findings, difference) = (again.findings, again.difference);
    Ok(Run { version, commit, findings, taken, difference, tally: pipeline.into_tally() })
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

    /// What was found last may not have been written.
    fn forget(&mut self) {
        self.expected.clear();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples,
        model::{Observation, Stop},
        roster::Roster,
    };

    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Sink for Lines {
        fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
            self.0.push(line(record)?);
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// A recording in which a duplicate is found at 20 s and closed at 30 s, as lines.
    fn recording() -> Vec<String> {
        const S: u64 = 1_000_000_000;
        let spawn = |pid, at| {
            let mut spawn = samples::spawn();
            (spawn.pid, spawn.start_ns) = (pid, at);
            Body::Spawn(Box::new(spawn))
        };
        let exit = Body::Exit(crate::model::Exit {
            pid: 102,
            start_ns: 61 * S,
            role: crate::model::Role::Worker,
            code: Some(0),
            signal: None,
            reads: None,
            source: crate::model::Source::Kernel,
        });
        let stop = Stop { reason: "duration".to_owned(), counters: [].into(), complete: true };
        let bodies = [
            (60 * S, Body::Start(Box::new(samples::start()))),
            (60 * S, spawn(101, 60 * S)),
            (61 * S, spawn(102, 61 * S)),
            (80 * S, Body::Tick(crate::model::Tick::default())),
            (90 * S, exit),
            (95 * S, Body::Stop(stop)),
        ];
        let mut lines = Lines::default();
        let mut pipeline = Pipeline::new(&samples::start().profile, vec![&mut lines]);
        for (boottime_ns, body) in bodies {
            let time = samples::time(boottime_ns);
            pipeline.observe(Observation { boottime_ns, body }, time).unwrap();
        }
        lines.0
    }

    fn one(lines: &[String]) -> (Run, Vec<String>) {
        let (mut replayed, again) = again(lines);
        assert_eq!(replayed.runs.len(), 1);
        (replayed.runs.remove(0), again)
    }

    #[test]
    fn each_recording_of_a_file_is_judged_by_itself() {
        let lines = recording();
        let (replayed, both) = again(&[lines.clone(), lines.clone()].concat());
        assert_eq!(both, [lines.clone(), lines.clone()].concat());
        let findings: Vec<u64> = replayed.runs.iter().map(|run| run.findings).collect();
        assert_eq!(findings, [one(&lines).0.findings; 2]);
        assert!(replayed.runs.iter().all(|run| run.difference.is_none() && run.tally.stopped()));
        // The first was killed.
        let (replayed, _) = again(&[lines[..3].to_vec(), lines.clone()].concat());
        let stopped: Vec<bool> = replayed.runs.iter().map(|run| run.tally.stopped()).collect();
        assert_eq!(stopped, [false, true]);
    }

    #[test]
    fn what_rests_on_missing_records_is_taken_as_it_is() {
        let lines = recording();
        // The spawns were not written, the findings were.
        let gap = crate::model::Gap {
            reason: GapReason::NotWritten,
            lost: 2,
            resynced: false,
            uid: None,
        };
        let gap = line(&samples::record(4, 62_000_000_000, Body::Gap(gap))).unwrap();
        let first = lines.iter().position(|line| is_finding(line)).unwrap();
        assert!(first >= 3, "{first}");
        let rest = lines[3..].iter().zip(5..).map(|(line, seq)| {
            let mut record: Record = serde_json::from_str(line).unwrap();
            record.seq = seq;
            crate::evidence::line(&record).unwrap()
        });
        let text: Vec<String> = [lines[0].clone(), gap].into_iter().chain(rest).collect();
        let (run, again) = one(&text);
        assert_eq!((run.difference, run.findings), (None, 0));
        assert_eq!(run.taken, lines.iter().filter(|line| is_finding(line)).count() as u64);
        assert_eq!(again, text);
    }

    fn again(lines: &[String]) -> (Replayed, Vec<String>) {
        let text = lines.join("\n") + "\n";
        let mut sink = Lines::default();
        let replayed = replay(Reader::new(text.as_bytes()), vec![&mut sink]).unwrap();
        (replayed, sink.0)
    }

    /// Gives lines their places again after one was taken out or put in.
    fn renumbered(lines: Vec<String>) -> Vec<String> {
        let number = |(line, seq): (String, u64)| {
            let mut record: Record = serde_json::from_str(&line).unwrap();
            record.seq = seq;
            crate::evidence::line(&record).unwrap()
        };
        lines.into_iter().zip(1..).map(number).collect()
    }

    fn is_finding(line: &str) -> bool {
        line.contains("\"type\":\"finding\"")
    }

    #[test]
    fn the_same_records_give_the_same_bytes() {
        let lines = recording();
        assert!(lines.iter().filter(|line| is_finding(line)).count() >= 2, "{lines:#?}");
        let (replayed, again) = one(&lines);
        assert_eq!(replayed.difference, None);
        assert_eq!(again, lines);
    }

    #[test]
    fn a_finding_that_was_changed_is_a_difference() {
        let mut lines = recording();
        let at = lines.iter().position(|line| is_finding(line)).unwrap();
        let was = lines[at].clone();
        lines[at] = was.replacen("\"opened\"", "\"closed\"", 1);
        assert_ne!(lines[at], was);
        let (replayed, _) = one(&lines);
        let difference = replayed.difference.unwrap();
        assert_eq!(difference.seq, at as u64, "`seq` of the record before it");
        assert_eq!(
            (difference.recorded, difference.replayed),
            (Some(lines[at].clone()), Some(was))
        );
    }

    #[test]
    fn a_finding_that_was_taken_out_or_put_in_is_a_difference() {
        let lines = recording();
        let first = lines.iter().position(|line| is_finding(line)).unwrap();
        let last = lines.iter().rposition(|line| is_finding(line)).unwrap();
        for at in [first, last] {
            let mut lines = lines.clone();
            lines.remove(at);
            let (replayed, _) = one(&renumbered(lines));
            assert_eq!(replayed.difference.unwrap().recorded, None);
        }
        let mut more = lines.clone();
        more.insert(2, lines[first].clone());
        let (replayed, _) = one(&renumbered(more));
        let difference = replayed.difference.unwrap();
        assert!(difference.recorded.is_some() && difference.replayed.is_none());
    }

    #[test]
    fn a_recording_that_was_cut_off_behind_a_cause_differs_in_nothing() {
        let lines = recording();
        let first = lines.iter().position(|line| is_finding(line)).unwrap();
        let (replayed, again) = one(&lines[..first]);
        assert_eq!(replayed.difference, None);
        assert_eq!((replayed.findings, replayed.tally.stopped()), (1, false));
        assert_eq!(again[first], lines[first], "what it would have said is said");
    }

    #[test]
    fn what_was_whole_is_judged() {
        let lines = recording();
        let mut cut = lines.clone();
        let last = cut.last_mut().unwrap();
        last.truncate(last.len() / 2);
        let text = cut.join("\n");
        let mut sink = Lines::default();
        let replayed = replay(Reader::new(text.as_bytes()), vec![&mut sink]).unwrap();
        let defect = replayed.defect.unwrap();
        assert!(defect.is_truncation());
        assert_eq!(defect.line, lines.len() as u64);
        assert_eq!(sink.0, lines[..lines.len() - 1]);
    }

    #[test]
    fn a_profile_that_is_not_valid_is_refused() {
        let mut start = samples::start();
        start.profile.workers[0].tokens.clear();
        let start = samples::record(1, 1, Body::Start(Box::new(start)));
        let text = line(&start).unwrap() + "\n";
        let error = replay(Reader::new(text.as_bytes()), Vec::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("line 1: the profile in it is not valid: neither `tokens`"),
            "{error}"
        );
    }
}
