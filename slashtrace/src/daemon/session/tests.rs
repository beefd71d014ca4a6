use std::collections::VecDeque;

use anyhow::bail;

use super::{feed::now, *};
use crate::{
    daemon::replay::replay,
    evidence::{Reader, line, samples},
    model::{
        Exit, FindingState, Kind, Limits, Mode, Record, Role, Signal, Source, Terminal,
        TerminalEvent, TerminalState, Tick, testing,
    },
    roster::Roster,
    sensor::{Last, Next},
};

/// No process has this pid (`PID_MAX_LIMIT`, include/linux/threads.h).
const NOBODY: u32 = 1 << 22;

/// A sensor that tells what it was told to, then waits for ever, or fails.
struct Script {
    batches: VecDeque<Vec<Observation>>,
    last: Vec<Observation>,
    fails: bool,
    /// Has something to tell at any time, once the batches are told.
    storm: bool,
    /// Nothing that happened since has been handed over, ns of the boot clock.
    horizon: Option<u64>,
}

impl Script {
    fn new(batches: impl IntoIterator<Item = Vec<Observation>>) -> Self {
        Self {
            batches: batches.into_iter().collect(),
            last: Vec::new(),
            fails: false,
            storm: false,
            horizon: None,
        }
    }
}

impl Sensor for Script {
    fn describe(&self) -> Description {
        Description {
            kind: SensorKind::Ebpf,
            capabilities: Vec::new(),
            calls_counted: false,
            limits: Limits {
                argv_searched_bytes: 1,
                ring_bytes: 1,
                tracked_max: 1,
                sample_interval_ms: 1,
            },
        }
    }

    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            match self.batches.pop_front() {
                Some(batch) => Ok(batch),
                None if self.fails => bail!("the ring buffer is gone"),
                None if self.storm => Ok(vec![now(Body::Tick(Tick::default()))]),
                None => pending().await,
            }
        })
    }

    fn horizon(&self, now_ns: u64) -> u64 {
        self.horizon.unwrap_or(now_ns)
    }

    fn finish(self: Box<Self>) -> Result<Last> {
        let counters = [("seen".to_owned(), 2)].into();
        Ok(Last { observations: self.last, counters, complete: true })
    }
}

/// Keeps what it gets; fails at the record that it is told to fail at.
#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    records: Vec<Record>,
    fail_at: Option<usize>,
    flushed: usize,
}

impl Sink for Kept {
    fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
        if self.fail_at == Some(self.lines.len()) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        self.lines.push(line(record)?);
        self.records.push(record.clone());
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flushed = self.lines.len();
        Ok(())
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn run(script: Script, plan: &Plan, kept: &mut Kept) -> (Result<Ended>, Vec<Note>) {
    let mut notes = Vec::new();
    let profile = Profile::hermes();
    let ended = block_on(record(Box::new(script), &profile, vec![kept], plan, &mut |note| {
        notes.push(note);
    }));
    (ended, notes)
}

fn for_ms(ms: u64) -> Plan {
    Plan { duration: Some(Duration::from_millis(ms)), ..Plan::default() }
}

fn sh(script: &str) -> Plan {
    let command = ["sh", "-c", script].map(OsString::from).to_vec();
    Plan { command: Some(command), ..Plan::default() }
}

/// A worker of the gateway of the samples, spawned so many seconds ago.
fn spawn(pid: u32, secs_ago: u64) -> Observation {
    let mut spawn = samples::spawn();
    let at = boottime_ns() - secs_ago * 1_000_000_000;
    (spawn.pid, spawn.start_ns) = (pid, at);
    if let Some(parent) = &mut spawn.parent {
        // All are to be of one gateway, which was there before them.
        parent.process.start_ns = 1;
    }
    Observation { boottime_ns: at, body: Body::Spawn(Box::new(spawn)) }
}

fn types(kept: &Kept) -> Vec<String> {
    let name = |line: &String| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["type"].as_str().unwrap().to_owned()
    };
    kept.lines.iter().map(name).collect()
}

fn reason(kept: &Kept) -> &str {
    match &kept.records.last().unwrap().body {
        Body::Stop(stop) => &stop.reason,
        other => panic!("the last record is {other:?}"),
    }
}

#[test]
fn a_recording_has_its_start_its_stop_and_no_holes() {
    let mut kept = Kept::default();
    let mut script = Script::new([vec![spawn(101, 3)], vec![spawn(102, 2)]]);
    script.last = vec![spawn(103, 1)];
    let (ended, notes) = run(script, &for_ms(50), &mut kept);
    let ended = ended.unwrap();
    assert_eq!(ended.reason, Reason::Duration);
    assert!(ended.complete && ended.tally.complete());
    assert_eq!(ended.counters["seen"], 2);
    assert_eq!(types(&kept), ["start", "spawn", "spawn", "spawn", "stop"]);
    assert!(kept.records.iter().zip(1..).all(|(record, seq)| record.seq == seq));
    assert_eq!(reason(&kept), "duration");
    assert_eq!(kept.flushed, kept.lines.len(), "nothing is left in a buffer");
    assert_eq!(notes, []);
}

#[test]
fn a_finding_follows_its_cause_and_replays_to_the_same_bytes() {
    let mut kept = Kept::default();
    // The overlap grace is 5 s: it is over 4 s after the second spawn plus one.
    let script = Script::new([vec![spawn(101, 20)], vec![spawn(102, 4)]]);
    let (ended, _) = run(script, &for_ms(1500), &mut kept);
    assert_eq!(ended.unwrap().tally.kinds().collect::<Vec<_>>(), [Kind::DuplicateWorker]);
    assert_eq!(types(&kept), ["start", "spawn", "spawn", "tick", "finding", "stop"]);
    let (tick, finding) = (&kept.records[3], &kept.records[4]);
    assert_eq!((tick.boottime_ns, tick.time), (finding.boottime_ns, finding.time));

    let mut again = Kept::default();
    let text = kept.lines.join("\n") + "\n";
    let replayed = replay(Reader::new(text.as_bytes()), vec![&mut again]).unwrap();
    let [judged] = &replayed.runs[..] else { panic!("{replayed:?}") };
    assert_eq!((&judged.difference, judged.findings), (&None, 1));
    assert!(replayed.defect.is_none() && judged.tally.complete());
    assert_eq!(again.lines, kept.lines);
}

#[test]
fn a_command_s_end_is_the_end_and_its_code_is_told() {
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)] {
        let mut kept = Kept::default();
        let plan = sh(script);
        let (ended, _) = run(Script::new([]), &plan, &mut kept);
        assert_eq!(ended.unwrap().reason, Reason::Command(code));
        assert_eq!(reason(&kept), "command-exited");
    }
}

#[test]
fn a_command_that_cannot_be_run_leaves_nothing() {
    let mut kept = Kept::default();
    let plan = Plan { command: Some(vec!["/nonexistent/x".into()]), ..Plan::default() };
    let (ended, _) = run(Script::new([]), &plan, &mut kept);
    let error = ended.unwrap_err();
    assert_eq!(error.to_string(), "cannot run /nonexistent/x");
    assert_eq!(crate::next_step::next_steps(&error).len(), 1);
    assert_eq!(kept.lines, Vec::<String>::new());
}

#[test]
fn a_command_is_asked_to_end_when_its_time_is_over() {
    let mut kept = Kept::default();
    let plan = Plan { duration: for_ms(100).duration, ..sh("exec sleep 60") };
    let began = Instant::now();
    let (ended, notes) = run(Script::new([]), &plan, &mut kept);
    assert_eq!(ended.unwrap().reason, Reason::Duration);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(&notes[..], [Note::Line(line)] if line.contains("SIGTERM")), "{notes:?}");
}

#[test]
fn workers_that_outlive_their_gateway_are_watched_until_they_count_as_orphans() {
    let worker = spawn(101, 1);
    let gateway = samples::spawn().parent.unwrap().process;
    let exit = Body::Exit(Exit {
        pid: gateway.pid,
        start_ns: 1,
        role: Role::Gateway,
        code: Some(0),
        signal: None,
        reads: None,
        source: Source::Kernel,
    });
    let script = Script::new([vec![worker, now(exit)]]);
    let mut kept = Kept::default();
    let mut profile = Profile::hermes();
    profile.graces.orphan = crate::profile::Span::from_secs(1);
    let plan = sh("true");
    let mut notes = Vec::new();
    let tell = &mut |note| notes.push(note);
    let ended = block_on(record(Box::new(script), &profile, vec![&mut kept], &plan, tell)).unwrap();
    assert_eq!(ended.reason, Reason::Command(0));
    let opened = kept.records.iter().any(|record| {
        matches!(&record.body, Body::Finding(finding)
            if finding.kind == Kind::GatewayOrphan && finding.state == FindingState::Opened)
    });
    assert!(opened, "{:?}", types(&kept));
    assert!(matches!(&notes[..], [Note::Line(line)] if line.contains("outlive")), "{notes:?}");
}

#[test]
fn a_sensor_that_fails_leaves_what_it_saw_marked_as_incomplete() {
    let mut kept = Kept::default();
    let mut script = Script::new([vec![spawn(101, 1)]]);
    script.fails = true;
    let (ended, _) = run(script, &Plan::default(), &mut kept);
    let error = format!("{:#}", ended.unwrap_err());
    assert_eq!(error, "a sensor failed; what it saw until then was kept: the ring buffer is gone");
    assert_eq!(types(&kept), ["start", "spawn", "stop"]);
    assert_eq!(reason(&kept), "sensor-failed");
    assert!(matches!(&kept.records[2].body, Body::Stop(stop) if !stop.complete));
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    for at in [0, 1] {
        let mut kept = Kept { fail_at: Some(at), ..Kept::default() };
        let script = Script::new([vec![spawn(101, 1)]]);
        let (ended, _) = run(script, &Plan::default(), &mut kept);
        assert_eq!(ended.unwrap().reason, Reason::OutputClosed);
    }
}

#[test]
fn status_is_told_as_often_as_asked() {
    let mut kept = Kept::default();
    let plan = Plan { status: Some(Duration::from_millis(20)), ..for_ms(600) };
    let (_, notes) = run(Script::new([vec![spawn(101, 1)]]), &plan, &mut kept);
    assert!((1..=30).contains(&notes.len()), "{notes:?}");
    let told = "recording for 0 s: workers 1 live, 1 spawned, 0 exited; findings 0 open, 0 in all; \
                Ctrl-C ends";
    assert_eq!(notes[0], Note::Status(told.to_owned()));
}

#[test]
fn a_storm_holds_up_neither_deadlines_nor_people_nor_the_end() {
    let mut kept = Kept::default();
    let mut script = Script::new([vec![spawn(101, 20)], vec![spawn(102, 4)]]);
    script.storm = true;
    let plan = Plan { status: Some(Duration::from_millis(20)), ..for_ms(1500) };
    let began = Instant::now();
    let (ended, notes) = run(script, &plan, &mut kept);
    assert_eq!(ended.unwrap().reason, Reason::Duration);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(notes.len() > 10, "{}", notes.len());
    let finding = kept.records.iter().position(|record| matches!(record.body, Body::Finding(_)));
    let finding = finding.expect("the overlap grace is over a second after the start");
    assert!(finding < kept.records.len() - 2, "found while the storm goes on");
}

#[test]
fn who_ended_is_not_found_to_live_because_the_news_of_it_waits() {
    let mut kept = Kept::default();
    let mut script = Script::new([vec![spawn(101, 20)], vec![spawn(102, 4)]]);
    // As after the second spawn: then came what is told last.
    script.horizon = Some(boottime_ns() - 3_000_000_000);
    let ended = Exit {
        pid: 102,
        // As `spawn` has it.
        start_ns: script.batches[1][0].boottime_ns,
        role: Role::Worker,
        code: Some(0),
        signal: None,
        reads: None,
        source: Source::Kernel,
    };
    let boottime_ns = script.batches[1][0].boottime_ns + 1_000_000_000;
    script.last = vec![Observation { boottime_ns, body: Body::Exit(ended) }];
    run(script, &for_ms(1500), &mut kept).0.unwrap();
    assert_eq!(types(&kept), ["start", "spawn", "spawn", "exit", "stop"]);
}

/// What the reaper does comes right after the finding that calls for it, unless something is left of
/// the batch that may withdraw it.
#[test]
fn what_a_finding_calls_for_waits_for_nothing_but_what_bears_on_it() {
    const S: u64 = 1_000_000_000;
    let began = boottime_ns();
    let mut worker = spawn(NOBODY, 90);
    let Body::Spawn(spawn) = &mut worker.body else { unreachable!("a spawn is one") };
    spawn.source = Source::Kernel;
    spawn.terminal = Some(Terminal { instance: Some(7), index: 3 });
    let mut opened = testing::terminal(3, began - 100 * S);
    opened.master = spawn.parent.as_ref().map(|parent| parent.process.clone());
    let closed = TerminalEvent { state: TerminalState::Closed, ..opened.clone() };
    let signal = Signal {
        pid: NOBODY,
        start_ns: spawn.start_ns,
        role: Role::Worker,
        signal: 1,
        name: "SIGHUP".to_owned(),
        si_code: 128,
        parent_ended: false,
        count: None,
        first_ns: None,
        last_ns: None,
        delivered: true,
        sender: None,
    };
    let at = |secs_ago: u64, body: Body| Observation { boottime_ns: began - secs_ago * S, body };
    let terminal = |secs_ago, event: TerminalEvent| at(secs_ago, Body::Terminal(Box::new(event)));
    let before = vec![terminal(100, opened), worker];
    for (left, expected) in [
        (Body::Signal(signal), ["terminal", "finding", "action", "signal"]),
        (Body::Tick(Tick::default()), ["terminal", "finding", "tick", "action"]),
    ] {
        // The grace is over: the recording has begun since.
        let batch = vec![terminal(60, closed.clone()), at(0, left)];
        let policy = Policy { mode: Mode::Enforce, min_age: Duration::ZERO, ..Policy::default() };
        let plan = Plan { policy: Some(policy), ..for_ms(50) };
        let mut kept = Kept::default();
        let (ended, _) = run(Script::new([before.clone(), batch]), &plan, &mut kept);
        assert_eq!(ended.unwrap().tally.kinds().collect::<Vec<_>>(), [Kind::TerminalOrphan]);
        let types = types(&kept);
        assert_eq!(types[..3], ["start", "terminal", "spawn"]);
        assert_eq!(types[3..7], expected);
        assert!(kept.records.iter().zip(1..).all(|(record, seq)| record.seq == seq));
        let finding = kept.records.iter().find(|it| matches!(it.body, Body::Finding(_))).unwrap();
        let because = kept.records.iter().find_map(|it| match &it.body {
            Body::Action(action) => Some(action.because.clone()),
            _ => None,
        });
        assert_eq!(because.unwrap(), [finding.seq]);
    }
}

#[test]
fn what_could_not_be_written_is_counted_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let mut evidence = crate::evidence::EvidenceWriter::append(&path).unwrap();
    let script = Script { storm: true, ..Script::new([]) };
    let reader = std::thread::spawn(move || {
        // By then more has happened than is held.
        std::thread::sleep(Duration::from_secs(8));
        let file = std::fs::File::open(path).unwrap();
        let mut gaps = Vec::new();
        let mut last = None;
        // Checks that each record follows the one before, or is a gap as long as what is missing.
        for record in Reader::new(io::BufReader::new(file)) {
            let record = record.unwrap_or_else(|defect| panic!("{defect}"));
            if let Body::Gap(gap) = record.body {
                gaps.push(gap.lost);
            } else {
                last = Some(record.body);
            }
        }
        (gaps, last)
    });
    let mut notes = Vec::new();
    let profile = Profile::hermes();
    let plan = for_ms(12_000);
    let ended =
        block_on(record(Box::new(script), &profile, vec![&mut evidence], &plan, &mut |note| {
            notes.push(note);
        }));
    let ended = ended.unwrap();
    evidence.finish(Duration::from_secs(20)).unwrap();
    drop(evidence);
    let (gaps, last) = reader.join().unwrap();
    assert!(!gaps.is_empty() && gaps.iter().all(|lost| *lost > 0), "{gaps:?}");
    assert_eq!(ended.tally.lost(), gaps.iter().sum::<u64>());
    assert!(!ended.complete && matches!(last, Some(Body::Stop(stop)) if !stop.complete));
    let said =
        |text: &str| notes.iter().any(|it| matches!(it, Note::Line(line) if line.contains(text)));
    assert!(said("nobody reads it; watching goes on"), "{notes:?}");
    assert!(said("records were not written"), "{notes:?}");
}
