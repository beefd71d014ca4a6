//! What was recorded: checked as every recording is, then asked.

use std::{
    env,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use jsonschema::Validator;
use slashtrace::{
    evidence,
    model::{
        Body, Exec, Exit, Finding, FindingState, Gap, GapReason, Identity, Kind, Record, Role,
        SensorKind, Signal, Spawn, Stop,
    },
};
use tempfile::TempDir;

use crate::host;

/// A whole recording.
#[derive(Debug)]
pub struct Recorded {
    /// Every record, in order.
    pub records: Vec<Record>,
    /// The file as it is.
    pub bytes: Vec<u8>,
    file: PathBuf,
    _folder: Option<TempDir>,
}

impl Recorded {
    /// Checks a recording that ended in order; `folder` is kept as long as this.
    ///
    /// # Panics
    /// If what must hold for every recording does not.
    pub fn check(file: &Path, folder: impl Into<Option<TempDir>>) -> Self {
        let recorded = Self::read(file, folder.into());
        recorded.check_schema();
        recorded.check_replay(0);
        recorded.check_nothing_lost();
        recorded
    }

    /// The same of a recording that says itself that it missed something.
    ///
    /// # Panics
    /// If it does not, or if anything else of that does not hold.
    pub fn check_incomplete(file: &Path, folder: impl Into<Option<TempDir>>) -> Self {
        let recorded = Self::read(file, folder.into());
        recorded.check_schema();
        recorded.check_replay(3);
        assert!(!recorded.last().complete, "it says that it is complete");
        recorded
    }

    fn read(file: &Path, folder: Option<TempDir>) -> Self {
        let read = File::open(file).expect("the evidence is there");
        let records: Result<Vec<Record>, _> = evidence::Reader::new(BufReader::new(read)).collect();
        let records = records.expect("the evidence is whole");
        let bytes = fs::read(file).expect("the evidence can be read");
        keep(&bytes);
        Self { records, bytes, file: file.into(), _folder: folder }
    }

    fn check_schema(&self) {
        for line in self.lines() {
            let value = serde_json::from_str(line).expect("a line is JSON");
            if let Some(error) = schema().iter_errors(&value).next() {
                panic!("not as the schema says: {error} at {}\n{line}", error.instance_path());
            }
        }
    }

    fn check_replay(&self, code: i32) {
        let replay = Command::new(host::slashtrace())
            .arg("replay")
            .arg(&self.file)
            .output()
            .expect("slashtrace runs");
        let told = String::from_utf8_lossy(&replay.stderr);
        // Evidence that is whole may be of workers that could not be judged.
        let judged = !told.contains("could not be judged");
        let gaps = self.gaps();
        if !gaps.is_empty() {
            eprintln!("the recording has gaps: {gaps:?}");
        }
        let gaps = gaps.iter().all(|gap| OF_OTHERS.contains(&gap.reason)) && !gaps.is_empty();
        let code = if code == 0 && (!judged || gaps) { 3 } else { code };
        assert_eq!(replay.status.code(), Some(code), "replay: {told}");
        let of_findings = self.lines().zip(&self.records).filter(|(_, record)| is_finding(record));
        let recorded: String = of_findings.flat_map(|(line, _)| [line, "\n"]).collect();
        let again = String::from_utf8_lossy(&replay.stdout);
        assert!(again == recorded, "replay printed\n{again}\nbut recorded was\n{recorded}");
    }

    fn gaps(&self) -> Vec<&Gap> {
        fn gap(record: &Record) -> Option<&Gap> {
            match &record.body {
                Body::Gap(gap) => Some(gap),
                _ => None,
            }
        }
        self.records.iter().filter_map(gap).collect()
    }

    fn check_nothing_lost(&self) {
        let stop = self.last();
        let gaps = self.gaps();
        assert_eq!(stop.complete, gaps.is_empty(), "{gaps:?}, {:?}", stop.counters);
        let of_others = gaps.iter().all(|gap| gap.reason == GapReason::ArgvNotSearched);
        assert!(of_others, "the recording is incomplete: {gaps:?}, {:?}", stop.counters);
        let Body::Start(start) = &self.records[0].body else { panic!("the first is no start") };
        if start.sensor == SensorKind::Ebpf {
            assert_eq!(self.counter("submitted"), self.counter("read"), "{:?}", stop.counters);
        }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.bytes).expect("evidence is UTF-8").lines()
    }

    /// Where the evidence is, as long as this lives.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The stop record.
    ///
    /// # Panics
    /// If it is not the last one.
    pub fn last(&self) -> &Stop {
        match self.records.last().map(|record| &record.body) {
            Some(Body::Stop(stop)) => stop,
            other => panic!("the last record is no stop: {other:?}"),
        }
    }

    /// A counter of the sensors.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = &self.last().counters;
        *counters.get(name).unwrap_or_else(|| panic!("no counter {name} in {counters:?}"))
    }

    /// Spawns of workers.
    pub fn workers(&self) -> Vec<&Spawn> {
        workers(&self.records)
    }

    /// Spawns of workers of one session.
    pub fn workers_of(&self, session: &str) -> Vec<&Spawn> {
        self.workers().into_iter().filter(|w| w.session.as_deref() == Some(session)).collect()
    }

    /// The one worker of a session.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub fn worker(&self, session: &str) -> &Spawn {
        match self.workers_of(session).as_slice() {
            [worker] => worker,
            others => panic!("{} workers of {session}\n{self}", others.len()),
        }
    }

    /// Spawns of processes below a worker.
    pub fn descendants_of(&self, worker: Identity) -> Vec<&Spawn> {
        let bodies = self.records.iter().map(|record| &record.body);
        let spawns = bodies.filter_map(|body| match body {
            Body::Spawn(spawn) if spawn.worker == Some(worker) => Some(&**spawn),
            _ => None,
        });
        spawns.collect()
    }

    /// Exits of one process.
    pub fn exits_of(&self, identity: Identity) -> Vec<&Exit> {
        self.exits().into_iter().filter(|exit| exit.identity() == identity).collect()
    }

    /// The one exit of a process.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub fn exit_of(&self, identity: Identity) -> &Exit {
        match self.exits_of(identity).as_slice() {
            [exit] => exit,
            others => panic!("{} exits of {identity:?}\n{self}", others.len()),
        }
    }

    /// Every exit.
    pub fn exits(&self) -> Vec<&Exit> {
        let bodies = self.records.iter().map(|record| &record.body);
        bodies
            .filter_map(|body| if let Body::Exit(exit) = body { Some(exit) } else { None })
            .collect()
    }

    /// Execs of one process.
    pub fn execs_of(&self, identity: Identity) -> Vec<&Exec> {
        let bodies = self.records.iter().map(|record| &record.body);
        let execs = bodies.filter_map(|body| match body {
            Body::Exec(exec) if exec.identity() == identity => Some(exec),
            _ => None,
        });
        execs.collect()
    }

    /// Signals for one process.
    pub fn signals_of(&self, identity: Identity) -> Vec<&Signal> {
        let bodies = self.records.iter().map(|record| &record.body);
        let signals = bodies.filter_map(|body| match body {
            Body::Signal(signal) if signal.identity() == identity => Some(signal),
            _ => None,
        });
        signals.collect()
    }

    /// Findings, in order, in every state.
    pub fn findings(&self) -> Vec<&Finding> {
        self.records.iter().filter_map(finding).collect()
    }

    /// Findings of a kind as they were when they were opened.
    pub fn opened(&self, kind: Kind) -> Vec<&Finding> {
        opened(&self.records, kind)
    }

    /// The record that has this body.
    ///
    /// # Panics
    /// If it is none of this recording's.
    pub fn record_of(&self, is: impl Fn(&Body) -> bool) -> &Record {
        let found = self.records.iter().find(|record| is(&record.body));
        found.unwrap_or_else(|| panic!("no such record\n{self}"))
    }
}

impl std::fmt::Display for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&tell(&self.records))
    }
}

/// Spawns of workers.
pub fn workers(records: &[Record]) -> Vec<&Spawn> {
    let spawns = records.iter().filter_map(|record| match &record.body {
        Body::Spawn(spawn) if spawn.role == Role::Worker => Some(&**spawn),
        _ => None,
    });
    spawns.collect()
}

/// Findings of a kind as they were when they were opened.
pub fn opened(records: &[Record], kind: Kind) -> Vec<&Finding> {
    let findings = records.iter().filter_map(finding);
    findings.filter(|f| f.kind == kind && f.state == FindingState::Opened).collect()
}

/// Whether a process has ended as far as it was recorded.
pub fn has_exited(records: &[Record], pid: u32) -> bool {
    records.iter().any(|record| matches!(&record.body, Body::Exit(exit) if exit.pid == pid))
}

/// Pids of the workers that a finding names, ascending.
pub fn pids(finding: &Finding) -> Vec<u32> {
    let mut pids: Vec<u32> = finding.workers.iter().map(|worker| worker.pid).collect();
    pids.sort_unstable();
    pids
}

/// The finding in a record.
pub fn finding(record: &Record) -> Option<&Finding> {
    match &record.body {
        Body::Finding(finding) => Some(finding),
        _ => None,
    }
}

/// Other programs of the machine may have arguments that are too long (compilers do), or be gone
/// before they are read, in any recording; what else is missing is a failure.
const OF_OTHERS: [GapReason; 3] =
    [GapReason::ArgvNotSearched, GapReason::ReadFailed, GapReason::ProgramMissed];

/// Leaves a copy in the folder that `SLASHTRACE_KEEP_EVIDENCE` names, if it names one: so the
/// recordings in `tests/fixtures/recordings` are made.
fn keep(evidence: &[u8]) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Some(folder) = env::var_os("SLASHTRACE_KEEP_EVIDENCE") else { return };
    let program = env::current_exe().expect("a test knows its own path");
    let program = program.file_stem().expect("it has a name").to_string_lossy();
    let program = program.rsplit_once('-').map_or(&*program, |(name, _)| name);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a_test").replace("::", "-");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = Path::new(&folder).join(format!("{program}-{test}-{number}.ndjson"));
    fs::write(&file, evidence).expect("the evidence can be kept");
}

fn is_finding(record: &Record) -> bool {
    finding(record).is_some()
}

/// Records for a person who reads why a test failed: at most the last 60 that say something.
pub fn tell(records: &[Record]) -> String {
    let told = records
        .iter()
        .filter(|record| !matches!(record.body, Body::Start(_) | Body::Tick(_) | Body::Sample(_)));
    let lines: Vec<String> =
        told.map(|record| evidence::line(record).expect("a record is plain data")).collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The schema that `slashtrace schema` prints.
fn schema() -> &'static Validator {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let printed = Command::new(host::slashtrace()).arg("schema").output();
        let printed = printed.expect("slashtrace runs").stdout;
        let schema = serde_json::from_slice(&printed).expect("a schema is JSON");
        jsonschema::validator_for(&schema).expect("it is a schema")
    })
}
