use std::{fs, process::id, time::Duration};

use super::*;
use crate::{
    model::Mode,
    reaper::testing::{LOOP, Recorder, Subject, exit, gateway_of, identity, spawn},
};

/// What is prepared for real processes, of which records tell.
struct Bench {
    prepared: Prepared,
    recorder: Recorder,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let policy = Policy { mode, min_age: Duration::from_secs(5), ..Policy::default() };
        let prepared = Prepared::new(ProcFs::default(), &policy);
        Self { prepared, recorder: Recorder::default() }
    }

    /// A worker is seen at its start; this test is its gateway.
    fn spawned(&mut self, worker: Identity) {
        let mut spawn = spawn(worker, Role::Worker);
        spawn.parent = Some(gateway_of(identity(id())));
        let record = self.recorder.record(worker.start_ns, Body::Spawn(Box::new(spawn)));
        self.prepared.observe(&record);
    }

    fn exited(&mut self, id: Identity) {
        self.prepared.observe(&self.recorder.record(u64::MAX, Body::Exit(exit(id))));
    }
}

/// Descriptors of this process that are open on a process: its files in /proc, and pidfds.
fn open_on(pid: u32) -> (usize, usize) {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let (mut files, mut pidfds) = (0, 0);
    for fd in fds {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        files += usize::from(target.starts_with(format!("/proc/{pid}")));
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.file_name().display()));
        let on = format!("Pid:\t{pid}");
        pidfds += usize::from(info.is_ok_and(|info| info.lines().any(|line| line == on)));
    }
    (files, pidfds)
}

fn worker() -> Subject {
    Subject::worker(&format!("echo; {LOOP}"))
}

#[test]
fn what_is_open_for_a_worker_is_let_go_when_it_ends() {
    let subject = worker();
    let worker = subject.id();
    let mut bench = Bench::new(Mode::Enforce);
    bench.spawned(worker);
    let due = bench.prepared.next_due().unwrap();
    assert_eq!(due, worker.start_ns + 4_000_000_000, "a second before it is old enough");
    assert!(!bench.prepared.prepare(due - 1));
    assert_eq!(open_on(worker.pid), (0, 0));
    assert!(bench.prepared.prepare(due) && !bench.prepared.prepare(u64::MAX));
    let (files, pidfds) = open_on(worker.pid);
    assert!((4..=5).contains(&files) && pidfds == 1, "{files} {pidfds}");
    assert!(bench.prepared.pidfd(&worker).is_some());
    let other = Identity { start_ns: worker.start_ns + 1, ..worker };
    assert!(bench.prepared.pidfd(&other).is_none(), "that is another process");
    assert!(bench.prepared.files(worker.pid).is_some() && bench.prepared.files(id()).is_some());
    bench.exited(worker);
    assert_eq!(open_on(worker.pid), (0, 0));
    assert_eq!(bench.prepared.descriptors(), 0);
    assert!(bench.prepared.files(id()).is_none(), "its gateway has no other worker");
}

#[test]
fn one_gateway_is_open_once_and_there_is_a_bound() {
    let subjects = [worker(), worker(), worker()];
    let ids: Vec<Identity> = subjects.iter().map(Subject::id).collect();
    let mut bench = Bench::new(Mode::Enforce);
    for id in &ids {
        bench.spawned(*id);
    }
    // Two workers and a gateway, which may be led by another; not three.
    bench.prepared.descriptors_max = 5 * Held::DESCRIPTORS;
    while bench.prepared.prepare(u64::MAX) {}
    let ready = |bench: &Bench| ids.iter().filter(|id| bench.prepared.pidfd(id).is_some()).count();
    let before = ready(&bench);
    assert!((1..=2).contains(&before), "{before}");
    assert!(bench.prepared.descriptors() <= bench.prepared.descriptors_max);
    assert_eq!(bench.prepared.next_due(), None, "nothing is woken up for");
    // There is room for another when one ends.
    for id in &ids[..before] {
        bench.exited(*id);
    }
    while bench.prepared.prepare(u64::MAX) {}
    assert!(ready(&bench) >= 1);
    for id in &ids {
        bench.exited(*id);
    }
    assert!(ids.iter().all(|id| open_on(id.pid) == (0, 0)));
}

#[test]
fn in_observe_nothing_is_opened() {
    let subject = worker();
    let mut bench = Bench::new(Mode::Observe);
    bench.spawned(subject.id());
    assert_eq!(bench.prepared.next_due(), None);
    assert!(!bench.prepared.prepare(u64::MAX));
    assert_eq!(open_on(subject.id().pid), (0, 0));
}

#[test]
fn one_that_ended_or_is_another_is_not_opened() {
    let (mut first, second) = (worker(), worker());
    let mut bench = Bench::new(Mode::DryRun);
    let (gone, ended) = (first.id(), second.id());
    let tick = ProcFs::default().tick_ns();
    let other = Identity { start_ns: worker().id().start_ns + tick, ..ended };
    for id in [gone, ended, other] {
        bench.spawned(id);
    }
    first.end();
    bench.exited(ended);
    assert!(bench.prepared.prepare(u64::MAX) && bench.prepared.prepare(u64::MAX));
    assert!(!bench.prepared.prepare(u64::MAX), "it ended before its time had come");
    assert_eq!(bench.prepared.descriptors(), 0);
    assert_eq!(open_on(ended.pid), (0, 0));
}
