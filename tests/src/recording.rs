use serde_json::Value;
use slashtrace::model::{
    Body, Exit, Finding, FindingState, Gap, Kind, Record, Role, Signal, Spawn, Stop,
};

use crate::slashtrace;

/// What a tracer wrote.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The records, in order.
    pub records: Vec<Record>,
    /// The file as it is.
    pub text: String,
}

impl Recording {
    /// Parses evidence; panics at the first line that is not a record.
    pub fn parse(text: &str) -> Self {
        let records = text
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        Self { records, text: text.to_owned() }
    }

    /// Workers that came to be, those of before the start included.
    pub fn spawns(&self) -> impl Iterator<Item = &Spawn> {
        self.records.iter().filter_map(|record| match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => Some(&**spawn),
            _ => None,
        })
    }

    /// Workers of one session.
    pub fn spawns_of<'a>(&'a self, session: &'a str) -> impl Iterator<Item = &'a Spawn> {
        self.spawns().filter(move |spawn| spawn.session.as_deref() == Some(session))
    }

    /// Processes that came to be below workers.
    pub fn descendants(&self) -> impl Iterator<Item = &Spawn> {
        self.records.iter().filter_map(|record| match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Descendant => Some(&**spawn),
            _ => None,
        })
    }

    /// The end of a process.
    pub fn exit_of(&self, pid: u32) -> Option<&Exit> {
        self.records.iter().find_map(|record| match &record.body {
            Body::Exit(exit) if exit.pid == pid => Some(exit),
            _ => None,
        })
    }

    /// Signals that were generated for a process.
    pub fn signals_to(&self, pid: u32) -> impl Iterator<Item = &Signal> {
        self.records.iter().filter_map(move |record| match &record.body {
            Body::Signal(signal) if signal.pid == pid => Some(signal),
            _ => None,
        })
    }

    /// What was missed.
    pub fn gaps(&self) -> impl Iterator<Item = &Gap> {
        self.records.iter().filter_map(|record| match &record.body {
            Body::Gap(gap) => Some(gap),
            _ => None,
        })
    }

    /// Findings, in order; one is there again each time that it changed.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.records.iter().filter_map(|record| match &record.body {
            Body::Finding(finding) => Some(&**finding),
            _ => None,
        })
    }

    /// Findings of one kind, as they were opened.
    pub fn opened(&self, kind: Kind) -> impl Iterator<Item = &Finding> {
        self.findings()
            .filter(move |found| found.kind == kind && found.state == FindingState::Opened)
    }

    /// Whether a finding of this kind names this worker (or other process) at any time.
    pub fn accuses(&self, kind: Kind, pid: u32) -> bool {
        self.findings().filter(|found| found.kind == kind).any(|found| {
            found.workers.iter().any(|worker| worker.pid == pid)
                || found.processes.iter().any(|process| process.pid == pid)
        })
    }

    /// The last record, of a recording that ended in order.
    pub fn end(&self) -> Option<&Stop> {
        match &self.records.last()?.body {
            Body::Stop(stop) => Some(stop),
            _ => None,
        }
    }

    /// Checks that it begins with `start`, ends with a `stop` that says nothing is missing, and
    /// that `seq` has no holes.
    pub fn assert_complete(&self) {
        let first = self.records.first().expect("the recording has records");
        assert!(matches!(first.body, Body::Start(_)), "{first:?}");
        for (record, seq) in self.records.iter().zip(1..) {
            assert_eq!(record.seq, seq, "{record:?}");
        }
        let end = self.end().expect("the last record is `stop`");
        assert!(end.complete, "{end:?}, {:?}", self.gaps().collect::<Vec<_>>());
    }

    /// Judges the recording again with `slashtrace replay` and checks that the findings, their
    /// order and their place are the recorded ones.
    pub fn assert_replays(&self) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), &self.text).expect("the temporary file");
        let output = slashtrace([std::ffi::OsStr::new("replay"), file.path().as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "replay: {}", output.stderr);
        let again = findings_of(&output.stdout);
        assert_eq!(again, findings_of(&self.text), "{}", output.stderr);
    }

    /// Checks every line against the schema that `slashtrace schema` prints.
    pub fn assert_valid(&self) {
        let output = slashtrace(["schema"]);
        assert_eq!(output.status.code(), Some(0), "schema: {}", output.stderr);
        let schema: Value = serde_json::from_str(&output.stdout).expect("the schema is JSON");
        let validator = jsonschema::validator_for(&schema).expect("the schema is one");
        for line in self.text.lines() {
            let value: Value = serde_json::from_str(line).expect("a line of JSON");
            if let Err(error) = validator.validate(&value) {
                panic!("{error} at {}: {line}", error.instance_path());
            }
        }
    }

    /// All that holds for every recording of an end-to-end test.
    pub fn assert_sound(&self) {
        self.assert_complete();
        self.assert_valid();
        self.assert_replays();
    }
}

/// The finding records of NDJSON, without the time of writing.
fn findings_of(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .filter(|record| record["type"] == "finding")
        .map(|mut record| {
            record.as_object_mut().expect("a record is an object").remove("time");
            record
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_compared_without_the_time_of_writing_but_with_their_place() {
        let line = |seq, time| {
            format!(
                "{{\"type\":\"finding\",\"seq\":{seq},\"time\":\"{time}\"}}\n{{\"type\":\"tick\"}}\n"
            )
        };
        assert_eq!(findings_of(&line(7, "a")), findings_of(&line(7, "b")));
        assert_ne!(findings_of(&line(7, "a")), findings_of(&line(8, "a")));
        assert_eq!(findings_of(&line(7, "a")).len(), 1);
    }
}
