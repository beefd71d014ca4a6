//! A user whose processes take long to read: one table of descriptors that thousands share, or many
//! tables. It costs that user's workers their judgement, and nobody else anything.
//!
//! Runs alone: it starts thousands of processes, and compares times.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, kill_process_group};
use slashtrace::model::{Body, Identity, Kind, Outcome, Record, Step as ReaperStep};
use slashtrace_tests::{
    Program, Recording, Step, host,
    reaping::{LONG, actions, is_there, of, reaper, worker_of},
    recorded::opened,
};

/// Somebody who is nobody else on this machine.
const ATTACKER: u32 = 64_711;
const VICTIM: u32 = 64_712;
const PATIENCE: Duration = Duration::from_mins(2);
/// From SIGTERM to the end, on a machine that is busy with the attack, too.
const AT_ONCE: Duration = Duration::from_secs(3);
/// What waiting takes that is no part of finding a worker.
const SLACK: Duration = Duration::from_secs(8);

/// What an attacker runs, until this goes away. It is the leader of a process group, which is killed.
struct Attack(Child);

impl Attack {
    /// Waits until there are so many processes in its group.
    fn start(steps: Vec<Step>, processes: usize) -> Self {
        use std::os::unix::process::CommandExt as _;
        let steps = [Step::User(ATTACKER)].into_iter().chain(steps).collect();
        let mut command = Program::new("attack", steps).command();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let attack = Self(command.spawn().expect("subject runs"));
        let end = Instant::now() + host::patience(PATIENCE);
        while attack.processes() < processes {
            assert!(Instant::now() < end, "{} of {processes}", attack.processes());
            thread::sleep(Duration::from_millis(200));
        }
        attack
    }

    fn processes(&self) -> usize {
        let group = self.0.id().to_string();
        let is = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
            rest.is_some_and(|rest| rest.split(' ').nth(2) == Some(group.as_str()))
        };
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<u32>().is_ok() && is(name)).count()
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        drop(self.0.wait());
        let end = Instant::now() + Duration::from_secs(30);
        while self.processes() > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A gateway of a user's with a worker whose stdin it has closed.
fn with_lost(recording: &Recording, session: &str) -> Vec<Step> {
    let lost = recording.worker(session, vec![Step::Sleep(LONG)]);
    vec![Step::SpawnWithPipe(lost), Step::Sleep(1_500), Step::CloseDescriptors]
}

fn has_ended(records: &[Record], worker: Identity) -> bool {
    let mut of_it = actions(records).into_iter().filter(|it| it.worker == Some(worker));
    of_it.any(|it| it.step == ReaperStep::Result && it.outcome == Some(Outcome::Exited))
}

/// Runs a gateway of the victim's that has one worker in use and loses another: how long it takes
/// until that was found and has ended.
fn run_victim(recording: &Recording, session: &str) -> Duration {
    let used = recording.worker(&format!("{session}-used"), vec![Step::Serve]);
    let mut steps = vec![Step::User(VICTIM)];
    steps.extend(with_lost(recording, session));
    steps.extend([Step::SpawnWithPipe(used), Step::Sleep(LONG)]);
    let began = Instant::now();
    let gateway = Program::new("gateway", steps).start();
    let lost = worker_of(recording, session).identity();
    recording
        .wait_for("the end of the victim's worker", PATIENCE, |records| has_ended(records, lost));
    let took = began.elapsed();
    let records = recording.so_far();
    let found = opened(&records, Kind::Unreachable);
    assert!(found.iter().any(|it| it.workers.iter().any(|it| it.pid == lost.pid)), "{session}");
    let used = worker_of(recording, &format!("{session}-used")).identity();
    assert!(is_there(used.pid) && of(&recording.so_far(), used).is_empty(), "it is in use");
    drop(gateway);
    took
}

/// Has it end by SIGTERM: how long that takes.
fn terminate(recording: &Recording) -> Duration {
    let began = Instant::now();
    let pid = Pid::from_raw(recording.pid().cast_signed()).expect("it has one");
    kill_process(pid, Signal::TERM).expect("slashtrace is running");
    while is_there(recording.pid()) {
        assert!(began.elapsed() < host::patience(PATIENCE), "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

fn over_budget(records: &[Record], worker: Identity) -> bool {
    records.iter().any(|record| {
        matches!(&record.body, Body::Sample(it) if it.identity() == worker && it.over_budget)
    })
}

fn may_run(descriptors: u64) -> bool {
    let most = getrlimit(Resource::Nofile).maximum;
    let fits = most.is_none_or(|most| most >= descriptors + 64);
    if !fits {
        host::skip(&format!("no process may have {descriptors} descriptors here"));
    }
    fits && host::may_load_kernel_programs()
}

/// Ends the recording after the victim was attacked; the attacker's worker is that of session `own`.
fn attacked(recording: &Recording, steps: Vec<Step>, processes: usize) -> Identity {
    let alone = run_victim(recording, "before");
    let attack = Attack::start(steps, processes);
    let own = worker_of(recording, "own").identity();
    let beside = run_victim(recording, "during");
    let took = terminate(recording);
    drop(attack);
    eprintln!("found and ended: {alone:?} alone, {beside:?} beside; SIGTERM: {took:?}");
    assert!(beside < 2 * alone + host::patience(SLACK), "{beside:?}, {alone:?} without it");
    assert!(took < host::patience(AT_ONCE), "{took:?}");
    own
}

#[test]
fn a_table_that_thousands_share_is_read_once() {
    const DESCRIPTORS: usize = 18_000;
    const PROCESSES: usize = 2_500;
    if !may_run(DESCRIPTORS as u64) {
        return;
    }
    let recording = reaper("enforce").start();
    let steps = vec![
        Step::SpawnWithPipe(recording.worker("own", vec![Step::Serve])),
        Step::Descriptors(DESCRIPTORS),
        Step::ShareDescriptors(PROCESSES),
        Step::Sleep(600_000),
    ];
    let own = attacked(&recording, steps, PROCESSES);
    let recorded = recording.stop();
    // It costs next to nothing, so the attacker's worker is judged as well.
    assert!(!over_budget(&recorded.records, own), "{recorded}");
    assert!(of(&recorded.records, own).is_empty(), "{recorded}");
}

#[test]
fn who_takes_too_long_to_read_is_not_judged_and_nobody_else() {
    const DESCRIPTORS: usize = 5_000;
    const PROCESSES: usize = 300;
    if !may_run(DESCRIPTORS as u64) {
        return;
    }
    let recording = reaper("enforce").start();
    let mut steps = vec![Step::Descriptors(DESCRIPTORS), Step::ForkMany(PROCESSES)];
    steps.extend(with_lost(&recording, "own"));
    steps.push(Step::Sleep(600_000));
    let own = attacked(&recording, steps, PROCESSES);
    let recorded = recording.stop();
    let unread: Vec<Identity> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Sample(sample) if sample.over_budget => Some(sample.identity()),
            _ => None,
        })
        .collect();
    assert!(unread.contains(&own) && unread.iter().all(|it| *it == own), "{unread:?}\n{recorded}");
    // That it cannot be judged is no reason to end it.
    assert!(of(&recorded.records, own).is_empty(), "{recorded}");
}
