//! NDJSON back to records, one at a time, with every line checked.

use std::{
    io::{self, BufRead, Read as _},
    path::Path,
};

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use strum::VariantNames as _;

use super::{source, store};
use crate::model::{Body, FORMAT_VERSION, GapReason, Record};

/// The longest line that is read, bytes. The longest that is written is a finding about thousands
/// of workers, far below it.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Why a file ended that goes on in the next.
pub(super) const CONTINUED: &str = "continued";

/// What reading comes to: a record, what is wrong, or nothing any more.
type Read = Option<Result<Record, Defect>>;

/// Reads records and checks that each is whole, known, and follows the one before it. Ends at the
/// first that is not. A later `start` begins another recording: a line before it that was cut off is
/// passed over, for whoever wrote it was ended while it wrote.
pub struct Reader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
    /// `seq` of the record before.
    seq: u64,
    /// Whether that was `start`, or a checkpoint after it.
    at_begin: bool,
    /// A line that was read ahead.
    ahead: Option<Vec<u8>>,
    torn: u64,
    ended: bool,
    /// Whether files that go on are read as one.
    across: bool,
    /// What was read ahead of these, and the `seq` before it.
    held: Option<(u64, Read)>,
}

/// What is wrong with a file, and in which line. What stood before it was whole.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Defect {
    /// Line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no record at all.
    #[error("the file is empty")]
    Empty,
    /// The file ends in the middle of it.
    #[error("the file ends in the middle of this line")]
    Truncated,
    /// It is not a record.
    #[error("not a record: {0}")]
    Malformed(String),
    /// Its type is not known.
    #[error("unknown record type `{0}`")]
    UnknownType(String),
    /// It was written in another version of the format.
    #[error("format version {0}; this slashtrace reads version {FORMAT_VERSION}")]
    Version(u32),
    /// It is not the next record: lines are missing, doubled or in another order.
    #[error("`seq` is {found} where {expected} should follow")]
    Sequence {
        /// The number that should be there.
        expected: u64,
        /// The number that is.
        found: u64,
    },
    /// The first record is not `start`.
    #[error("the first record is not `start`")]
    NoStart,
    /// It is longer than any record.
    #[error("longer than {} MiB", LINE_BYTES_MAX >> 20)]
    TooLong,
    /// It could not be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl Defect {
    /// Whether the file merely ends too early, so that what was read is all there was to say.
    pub fn is_truncation(&self) -> bool {
        matches!(self.problem, Problem::Truncated)
    }

    /// What the user can do about it.
    pub fn next_step(&self) -> &'static str {
        match self.problem {
            Problem::Empty | Problem::NoStart => {
                "give the evidence that `slashtrace record` or `run` wrote, from its first line"
            }
            Problem::Truncated => {
                "get the whole file if there is one; if the recorder was killed, what was whole is all there is"
            }
            Problem::UnknownType(_) | Problem::Version(_) => {
                "use the slashtrace that wrote it (its version is in the first line) or a newer one"
            }
            Problem::Malformed(_) | Problem::Sequence { .. } | Problem::TooLong => {
                "get the file again from where it was recorded; it was changed on the way"
            }
            Problem::Io(_) => "check that it is a file that you may read",
        }
    }
}

/// What every version of the format has, to say of a line that is not understood why.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    #[serde(rename = "type")]
    kind: String,
}

impl Reader<Box<dyn BufRead>> {
    /// Opens evidence in any form that it is kept in: NDJSON, plain or compressed, or a bundle
    /// (`slashtrace record`'s folder or archive); `-` is stdin.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_since(path, None)
    }

    /// The same; of a folder that `run` keeps from the file on in which a moment is.
    pub fn open_since(path: &Path, since: Option<Timestamp>) -> Result<Self> {
        match store::read(path, since)? {
            Some(chain) => Ok(Self { across: true, ..Self::new(Box::new(chain)) }),
            None => source::open(path).map(Self::new),
        }
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from anything.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            buffer: Vec::new(),
            seq: 0,
            at_begin: false,
            ahead: None,
            torn: 0,
            ended: false,
            across: false,
            held: None,
        }
    }

    /// Lines that were cut off and stand before the `start` of another recording.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// The line of the record that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    fn read(&mut self) -> Result<Option<Record>, Problem> {
        match self.ahead.take() {
            Some(line) => self.buffer = line,
            None => Self::fill(&mut self.input, &mut self.buffer)?,
        }
        let whole = self.buffer.ends_with(b"\n");
        if self.buffer.is_empty() {
            return if self.line == 1 { Err(Problem::Empty) } else { Ok(None) };
        }
        let record: Record = match serde_json::from_slice(&self.buffer) {
            Ok(record) => record,
            // The last line of a file may lack its newline and be whole all the same.
            Err(_) if !whole => return Err(Problem::Truncated),
            Err(error) => {
                let why = self.why_not(&error);
                if self.line > 1
                    && matches!(why, Problem::Malformed(_))
                    && self.is_before_start()?
                {
                    self.torn += 1;
                    self.line += 1;
                    return self.read();
                }
                return Err(why);
            }
        };
        if record.v != FORMAT_VERSION {
            return Err(Problem::Version(record.v));
        }
        let expected = match &record.body {
            Body::Start(start) if start.continued || start.resumed => record.seq,
            // It belongs to the `start` before it.
            Body::Checkpoint(_) if self.at_begin => self.seq,
            Body::Start(_) => 1,
            _ if self.line == 1 => return Err(Problem::NoStart),
            // What is missing is told of right here.
            Body::Gap(gap) if gap.reason == GapReason::NotWritten => {
                self.seq.saturating_add(gap.lost).saturating_add(1)
            }
            _ => self.seq.saturating_add(1),
        };
        if record.seq != expected {
            return Err(Problem::Sequence { expected, found: record.seq });
        }
        self.seq = record.seq;
        self.at_begin = matches!(record.body, Body::Start(_) | Body::Checkpoint(_));
        Ok(Some(record))
    }

    fn fill(input: &mut R, line: &mut Vec<u8>) -> Result<(), Problem> {
        line.clear();
        let mut input = input.take(LINE_BYTES_MAX);
        input.read_until(b'\n', line).map_err(Problem::Io)?;
        if !line.ends_with(b"\n") && line.len() as u64 == LINE_BYTES_MAX {
            return Err(Problem::TooLong);
        }
        Ok(())
    }

    /// Whether the next line is `start`.
    fn is_before_start(&mut self) -> Result<bool, Problem> {
        let mut next = Vec::new();
        Self::fill(&mut self.input, &mut next)?;
        let record = serde_json::from_slice::<Record>(&next);
        let is = record.is_ok_and(|record| matches!(record.body, Body::Start(_)));
        self.ahead = Some(next);
        Ok(is)
    }

    fn why_not(&self, error: &serde_json::Error) -> Problem {
        match serde_json::from_slice::<Envelope>(&self.buffer) {
            Ok(envelope) if envelope.v != FORMAT_VERSION => Problem::Version(envelope.v),
            Ok(envelope) if !Body::VARIANTS.contains(&envelope.kind.as_str()) => {
                Problem::UnknownType(crate::redact::escape(envelope.kind.as_bytes()))
            }
            _ => {
                // serde_json's own "at line 1 column 7" would contradict the line that is named.
                let text = error.to_string();
                let reason = text.split(" at line ").next().unwrap_or(&text);
                Problem::Malformed(crate::redact::escape(reason.as_bytes()))
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, Defect>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (before, next) = match self.held.take() {
                Some(held) => held,
                None => (self.seq, self.of_one_file()),
            };
            if !self.across {
                return next;
            }
            if goes_on(next.as_ref(), before) {
                // Its writer could not end the file before.
                self.pass_checkpoints();
                continue;
            }
            match &next {
                Some(Ok(Record { body: Body::Stop(stop), .. })) if stop.reason == CONTINUED => {}
                _ => return next,
            }
            let after = (self.seq, self.of_one_file());
            if !goes_on(after.1.as_ref(), before) {
                self.held = Some(after);
                return next;
            }
            self.pass_checkpoints();
        }
    }
}

impl<R: BufRead> Reader<R> {
    fn of_one_file(&mut self) -> Read {
        if self.ended {
            return None;
        }
        self.line += 1;
        let next = self.read();
        self.ended = !matches!(next, Ok(Some(_)));
        next.map_err(|problem| Defect { line: self.line, problem }).transpose()
    }

    /// Passes over what a file that goes on says of the ones before it: it is known.
    fn pass_checkpoints(&mut self) {
        loop {
            let before = self.seq;
            match self.of_one_file() {
                Some(Ok(Record { body: Body::Checkpoint(_), .. })) => {}
                next => {
                    self.held = Some((before, next));
                    return;
                }
            }
        }
    }
}

/// Whether this is the `start` of a file that goes on right after the record of this `seq`.
fn goes_on(start: Option<&Result<Record, Defect>>, seq: u64) -> bool {
    match start {
        Some(Ok(Record { body: Body::Start(start), seq: at, .. })) => {
            start.continued && *at == seq && seq > 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{line, samples},
        *,
    };
    use crate::model::Gap;

    fn lines() -> Vec<String> {
        samples::all().iter().map(|record| line(record).unwrap()).collect()
    }

    fn read(text: &str) -> (Vec<Record>, Option<Defect>) {
        let mut records = Vec::new();
        for record in Reader::new(text.as_bytes()) {
            match record {
                Ok(record) => records.push(record),
                Err(defect) => return (records, Some(defect)),
            }
        }
        (records, None)
    }

    fn defect(text: &str) -> String {
        read(text).1.expect("there is a defect").to_string()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let text = lines().join("\n") + "\n";
        let (records, defect) = read(&text);
        assert!(defect.is_none(), "{defect:?}");
        assert_eq!(records, samples::all());
        let (records, defect) = read(text.trim_end());
        assert!(defect.is_none(), "a missing last newline is no defect: {defect:?}");
        assert_eq!(records.len(), samples::all().len());
    }

    #[test]
    fn a_file_cut_anywhere_gives_what_was_whole() {
        let text = lines()[..3].join("\n") + "\n";
        for end in 1..text.len() {
            let cut = &text[..end];
            let whole = cut.lines().count() - usize::from(!cut.ends_with('\n'));
            let (records, defect) = read(cut);
            match defect {
                Some(defect) => {
                    assert!(defect.is_truncation(), "{defect}");
                    assert_eq!((records.len(), defect.line), (whole, whole as u64 + 1));
                }
                // Cut at the end of a line, with or without its newline.
                None => assert_eq!(records.len(), cut.lines().count()),
            }
        }
    }

    #[test]
    fn truncation_inside_a_character() {
        let text = lines()[0].replace("6.18.0", "größe");
        let at = text.find('ö').unwrap() + 1;
        let defect = Reader::new(&text.as_bytes()[..at]).next().unwrap().unwrap_err();
        assert_eq!(defect.to_string(), "line 1: the file ends in the middle of this line");
    }

    #[test]
    fn defects_name_line_and_reason() {
        let all = lines();
        let with = |at: usize, new: &str| {
            let mut lines = all.clone();
            new.clone_into(&mut lines[at - 1]);
            defect(&(lines.join("\n") + "\n"))
        };
        let without = |at: usize| {
            let mut lines = all.clone();
            lines.remove(at - 1);
            defect(&(lines.join("\n") + "\n"))
        };
        let found = [
            defect(""),
            with(2, ""),
            with(2, "{\"v\":1,"),
            with(2, "not json"),
            with(3, &all[1]),
            with(3, &all[2].replace("\"v\":1", "\"v\":2")),
            with(3, "{\"v\":2,\"type\":\"start\",\"new\":true}"),
            with(3, "{\"v\":1,\"seq\":3,\"type\":\"tele\\u001bport\"}"),
            with(3, "{\"v\":1,\"seq\":3,\"type\":\"exec\"}"),
            with(3, "[1,2]"),
            without(1),
            without(3),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    #[test]
    fn a_file_may_hold_several_recordings() {
        let all = lines();
        let one = all.join("\n") + "\n";
        let twice = one.clone() + &one;
        let (records, none) = read(&twice);
        assert!(none.is_none(), "{none:?}");
        assert_eq!(records.len(), 2 * all.len());
        // Whoever wrote the first was killed while it wrote.
        let torn = format!("{}\n{{\"v\":1,\"seq\":3,\"ti\n{one}", all[..2].join("\n"));
        let mut reader = Reader::new(torn.as_bytes());
        let records: Result<Vec<Record>, _> = reader.by_ref().collect();
        assert_eq!((records.unwrap().len(), reader.torn()), (2 + all.len(), 1));
        // Begun anew in the middle: the first record says after which one.
        let mut start = samples::all()[0].clone();
        start.seq = 700;
        let Body::Start(begun) = &mut start.body else { panic!("no start") };
        begun.continued = true;
        let start = line(&start).unwrap();
        let next = all[1].replacen("\"seq\":2,", "\"seq\":701,", 1);
        let (records, none) = read(&format!("{start}\n{next}\n"));
        assert!(none.is_none() && records.len() == 2, "{none:?}");
        assert!(defect(&format!("{start}\n{}\n", all[1])).contains("where 701 should follow"));
    }

    #[test]
    fn what_was_not_written_is_told_of() {
        let all = lines();
        let gap = all.iter().find(|line| line.contains("\"gap\"")).unwrap();
        let mut gap: Record = serde_json::from_str(gap).unwrap();
        let lost = |lost| Gap { reason: GapReason::NotWritten, lost, resynced: false, uid: None };
        (gap.seq, gap.body) = (43, Body::Gap(lost(40)));
        let (records, none) = read(&format!("{}\n{}\n{}\n", all[0], all[1], line(&gap).unwrap()));
        assert!(none.is_none() && records.len() == 3, "{none:?}");
        gap.body = Body::Gap(lost(39));
        let text = format!("{}\n{}\n{}\n", all[0], all[1], line(&gap).unwrap());
        assert!(defect(&text).contains("`seq` is 43 where 42 should follow"));
    }

    #[test]
    fn unknown_fields_are_left_alone() {
        let mut all = lines();
        all[1] = all[1].replacen('{', "{\"later\":{\"added\":[1]},", 1);
        let (records, defect) = read(&(all.join("\n") + "\n"));
        assert!(defect.is_none(), "{defect:?}");
        assert_eq!(records, samples::all());
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let defect = Reader::new(endless).next().unwrap().unwrap_err();
        assert_eq!(defect.to_string(), "line 1: longer than 16 MiB");
    }
}
