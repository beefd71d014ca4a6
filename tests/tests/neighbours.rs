//! A user who wants to end, blind or fill slashtrace: another user's workers are seen, told apart and
//! seen to end as without that.
//!
//! Runs alone: it forks thousands of processes, and fills what all users share.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use slashtrace::model::{Body, GapReason, Kind, ParentSource, Record, Role};
use slashtrace_tests::{
    Program, Recorded, Recording, Setup, Step, host,
    recorded::{has_exited, opened, workers},
};

/// Somebody who is nobody else on this machine.
const ATTACKER: u32 = 64_701;
const VICTIM: u32 = 64_702;
const PATIENCE: Duration = Duration::from_mins(2);
/// Descendants of one worker that are tracked at most.
const FAMILY: usize = 2_048;
/// More than the tables have places for.
const MANY: usize = 16_600;

/// What an attacker runs, until this goes away. It is the leader of a process group, which is killed.
struct Attack(Child);

impl Attack {
    fn start(program: &Program) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = program.command();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Self(command.spawn().expect("subject runs"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        drop(self.0.wait());
        let end = Instant::now() + Duration::from_secs(30);
        while attackers() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A worker of the attacker's that does this.
fn fake(recording: &str, steps: Vec<Step>) -> Program {
    let steps = [Step::User(ATTACKER)].into_iter().chain(steps).collect();
    Program::new("python3", steps).arg("-m").arg(recording).arg("--session-key").arg("fake")
}

/// A gateway of the victim's, with a worker that it loses: it ends, and the worker lives on.
fn victim(recording: &Recording, session: &str) -> Program {
    let child = recording.worker(&format!("{session}-child"), vec![Step::Sleep(200)]);
    let forks = Step::Fork(vec![Step::Sleep(300)]);
    let worker = recording.worker(session, vec![forks, Step::Sleep(9_000)]);
    // Who ends in the moments after the spawn only passed through.
    let steps = [Step::User(VICTIM), Step::Spawn(child), Step::SpawnWithPipe(worker)];
    Program::new("gateway", steps.into_iter().chain([Step::Sleep(3_000)]).collect())
}

/// Runs the victim's gateway and waits until its worker was found and has ended.
fn run_victim(recording: &Recording, session: &str) -> u32 {
    let gateway = victim(recording, session).run();
    recording.wait_for("the victim's orphan, and its end", PATIENCE, |records| {
        let worker = workers(records).into_iter().find(|it| it.session.as_deref() == Some(session));
        worker.is_some_and(|worker| {
            has_exited(records, worker.pid)
                && opened(records, Kind::GatewayOrphan)
                    .iter()
                    .any(|finding| finding.workers.iter().any(|it| it.pid == worker.pid))
        })
    });
    gateway
}

/// The victim's worker has its gateway, and its child and everybody's end were seen.
fn check_victim(recorded: &Recorded, session: &str, gateway: u32) {
    let worker = recorded.worker(session);
    let parent = worker.parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.how), (gateway, ParentSource::Fork), "{parent:?}");
    assert!(!parent.gone && worker.uid == VICTIM, "{worker:?}");
    assert_eq!(recorded.exit_of(worker.identity()).code, Some(0));
    let below = recorded.descendants_of(worker.identity());
    assert_eq!(below.len(), 1, "{below:?}");
    assert_eq!(recorded.exit_of(below[0].identity()).code, Some(0));
    let short = recorded.worker(&format!("{session}-child"));
    assert_eq!(recorded.exit_of(short.identity()).code, Some(0));
}

fn gaps(records: &[Record], reason: GapReason) -> u64 {
    let of = records.iter().filter_map(|record| match &record.body {
        Body::Gap(gap) if gap.reason == reason => Some(gap.lost),
        _ => None,
    });
    of.sum()
}

/// How many processes the attacker has.
fn attackers() -> usize {
    let is = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with(&format!("Uid:\t{ATTACKER}\t")))
    };
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| is(pid))
        .count()
}

fn wait_for_attackers(count: usize) {
    let end = Instant::now() + host::patience(PATIENCE);
    while attackers() < count {
        assert!(Instant::now() < end, "{} of {count} attackers", attackers());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether a user may have so many processes here.
fn may_fork(count: usize) -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"]
        .map(|path| read(path).trim().parse::<usize>().unwrap_or(0));
    let available: usize = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok()
        })
        .unwrap_or(0);
    let fits = most.iter().all(|&most| most > count + 4_096) && available > count * 200;
    if !fits {
        host::skip(&format!("{count} processes are too many for this machine"));
    }
    fits
}

fn forks(count: usize) -> Vec<Step> {
    vec![Step::ForkMany(count), Step::Sleep(600_000)]
}

#[test]
fn who_forks_without_end_below_a_worker_fills_his_own_share_alone() {
    if !host::may_load_kernel_programs() || !may_fork(MANY) {
        return;
    }
    let setup = Setup::ebpf();
    let token = setup.token().to_owned();
    let recording = setup.start();
    let attack = Attack::start(&fake(&token, forks(MANY)));
    wait_for_attackers(MANY);
    let gateway = run_victim(&recording, "during");
    drop(attack);
    let recorded = recording.stop_incomplete();

    check_victim(&recorded, "during", gateway);
    let below = recorded.descendants_of(recorded.worker("fake").identity()).len();
    assert_eq!(below, FAMILY);
    // The rest is told, each once.
    assert_eq!(gaps(&recorded.records, GapReason::ShareFull), (MANY - below) as u64);
    assert_eq!(gaps(&recorded.records, GapReason::MapFull), 0);
}

#[test]
fn it_starts_while_more_lives_than_it_can_track() {
    if !host::may_load_kernel_programs() || !may_fork(MANY) {
        return;
    }
    let setup = Setup::ebpf();
    let token = setup.token().to_owned();
    let attack = Attack::start(&fake(&token, forks(MANY)));
    wait_for_attackers(MANY);
    let recording = setup.start();
    let gateway = run_victim(&recording, "during");
    let told = gaps(&recording.so_far(), GapReason::ShareFull);
    assert_eq!(told, (MANY - FAMILY) as u64);
    drop(attack);
    // Whoever was left out is gone: there is room again.
    let gateway_after = run_victim(&recording, "after");
    let recorded = recording.stop_incomplete();
    check_victim(&recorded, "during", gateway);
    check_victim(&recorded, "after", gateway_after);
    assert!(recorded.counter("tracked") < 20, "{}", recorded.counter("tracked"));
}

#[test]
fn a_flood_of_signals_is_counted_and_hides_nothing() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = Setup::ebpf();
    let token = setup.token().to_owned();
    let recording = setup.start();
    let quiet = run_victim(&recording, "before");
    let attack = Attack::start(&fake(&token, vec![Step::Continue(10_000)]));
    let gateway = run_victim(&recording, "during");
    std::thread::sleep(Duration::from_secs(5));
    drop(attack);
    std::thread::sleep(Duration::from_secs(3));
    // Nothing was lost: it is complete.
    let recorded = recording.stop();

    check_victim(&recorded, "before", quiet);
    check_victim(&recorded, "during", gateway);
    let signals = recorded.signals_of(recorded.worker("fake").identity());
    let continued: Vec<_> = signals.iter().filter(|signal| signal.signal == 18).collect();
    let counted: u64 = continued.iter().filter_map(|it| it.count).map(u64::from).sum();
    let alone = continued.iter().filter(|signal| signal.count.is_none()).count();
    eprintln!(
        "{} SIGCONT counted, {alone} alone, in {} records; {} bytes",
        counted,
        continued.len(),
        recorded.bytes.len()
    );
    assert!(counted > 10_000, "{counted}");
    assert!(alone > 8 && alone < 400, "{alone}");
    for signal in &continued {
        if let (Some(first), Some(last)) = (signal.first_ns, signal.last_ns) {
            assert!(first <= last && last - first < 10_000_000_000, "{signal:?}");
        }
        assert_eq!(signal.sender.as_ref().map(|sender| sender.uid), Some(ATTACKER));
    }
    // What was sent between reading and taking out is in the counter alone.
    let held = recorded.counter("signals-held");
    assert!(counted <= held && held - counted < 1_000, "{counted} of {held}");
    assert!(recorded.bytes.len() < 1 << 20, "{} bytes", recorded.bytes.len());
}

#[test]
fn a_few_signals_each_have_their_record() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let mut worker = recording.worker("asked", vec![Step::Serve]).start();
    recording.wait_for("the worker", PATIENCE, |records| !workers(records).is_empty());
    for _ in 0..5 {
        worker.signal(rustix::process::Signal::CONT);
    }
    worker.wait();
    recording.wait_for("its end", PATIENCE, |records| has_exited(records, worker.pid()));
    let recorded = recording.stop();
    let signals = recorded.signals_of(recorded.worker("asked").identity());
    assert_eq!(signals.len(), 5, "{recorded}");
    assert!(signals.iter().all(|signal| signal.count.is_none()));
    assert_eq!(recorded.counter("signals-held"), 0);
}

#[test]
fn launchers_that_fork_twice_leave_nothing_in_the_tables() {
    if !host::may_load_kernel_programs() {
        return;
    }
    const LIVES: usize = 2_000;
    let recording = Recording::start();
    let worker = recording.worker("launched", Vec::new());
    for _ in 0..LIVES {
        // The launcher's child forks the worker and ends, and so does the launcher.
        let twice = Step::Fork(vec![Step::Fork(vec![Step::Exec(worker.clone())])]);
        Program::new("launcher", vec![twice]).run();
    }
    let ended = |records: &[Record]| {
        let is = |body: &Body| matches!(body, Body::Exit(exit) if exit.role == Role::Worker);
        records.iter().filter(|record| is(&record.body)).count()
    };
    recording.wait_for("the end of all", PATIENCE, |records| ended(records) == LIVES);
    // Whoever was put into the tables from outside is looked at again in the next round.
    std::thread::sleep(Duration::from_secs(5));
    let recorded = recording.stop();
    // This process launched them all: it is there, and what is above it up to its session's leader.
    let tracked = recorded.counter("tracked");
    eprintln!("{tracked} entries after {LIVES} lives");
    assert!(tracked <= 9, "{tracked}");
    assert_eq!(recorded.counter("stale-entry"), 0);
}
