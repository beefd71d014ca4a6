//! Workers that come as fast as this machine can make them, among others and beside many that
//! live: none is lost, and the recording ends in time whatever goes on.

use std::{
    fs,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::model::Body;
use slashtrace_tests::{Setup, Step, host};

const LIVES: usize = 20_000;
/// Workers that live all the time, each of which is looked at in every round of samples.
const LIVING: usize = 50;
/// Sessions that the lives are of.
const SESSIONS: usize = 100;

/// One life: the smallest program that there is, under the name and the arguments of a worker.
fn live(token: &str, session: usize) {
    let mut command = Command::new("/bin/true");
    std::os::unix::process::CommandExt::arg0(&mut command, "python3")
        .args(["-m", token, "--session-key", &format!("burst_{session}")])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().expect("/bin/true runs");
    assert!(status.success(), "{status}");
}

#[test]
fn a_burst_of_workers_among_others_and_none_is_lost() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Setup::ebpf().flag("--sample-interval=100ms").start();
    let token = recording.token().to_owned();
    let living: Vec<_> = (0..LIVING)
        .map(|n| recording.worker(&format!("living_{n}"), vec![Step::Serve]).start())
        .collect();
    let left = AtomicUsize::new(LIVES);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let one_less = |left: usize| left.checked_sub(1);
                while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                {
                    live(&token, n % SESSIONS);
                    if n % 4 == 0 {
                        live("somebody.else", 0);
                    }
                }
            });
        }
    });
    drop(living);
    // It checks that nothing was lost, and that it says so.
    let recorded = recording.stop();

    let is_life = |session: &Option<String>| {
        session.as_deref().is_some_and(|session| session.starts_with("burst_"))
    };
    let workers = recorded.workers();
    let lives = workers.iter().filter(|worker| is_life(&worker.session));
    assert_eq!(lives.count(), LIVES);
    assert_eq!(workers.len(), LIVES + LIVING);
    let exits = recorded.records.iter().filter(|record| matches!(record.body, Body::Exit(_)));
    assert!(exits.count() >= LIVES);
    assert_eq!(recorded.counter("ring-full"), 0);
}

#[test]
fn it_ends_within_a_second_in_the_middle_of_a_storm() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Setup::ebpf().start();
    let token = recording.token().to_owned();
    // So many that `slashtrace` is given one of two CPUs at best.
    let (over, spawned) = (AtomicBool::new(false), AtomicUsize::new(0));
    let took = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    live(&token, spawned.fetch_add(1, Ordering::Relaxed) % SESSIONS);
                }
            });
        }
        thread::sleep(Duration::from_secs(2));
        let pid = recording.pid();
        let began = Instant::now();
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), Signal::TERM)
            .expect("slashtrace is running");
        let took = loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is our child");
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
            let took = began.elapsed();
            if state == Some(true) || took > Duration::from_secs(20) {
                break took;
            }
            thread::sleep(Duration::from_millis(5));
        };
        over.store(true, Ordering::Relaxed);
        took
    });
    // Whole evidence, complete, and it replays to the same findings.
    let recorded = recording.stop();
    assert!(recorded.workers().len() > 100, "{}", recorded.workers().len());
    assert!(took < Duration::from_secs(1), "{took:?}");
}
