use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;
use crate::{
    host::proc::fake::{Fake, FakeProc, WORKER},
    model::{Body, Exec, Exit, ParentSource, Role, Source, Spawn, StdinState},
    profile::Profile,
};

const SECOND: u64 = 1_000_000_000;
const TICK: u64 = 10_000_000;

/// A table, and the identities of its recording.
struct Rounds(Table, IdentityBook);

fn table(fake: &FakeProc) -> Rounds {
    let proc = fake.proc();
    let book = IdentityBook::new(proc.tick_ns());
    Rounds(Table::new(proc, Profile::hermes()), book)
}

/// What a round says.
fn events(Rounds(table, book): &mut Rounds, now_ns: u64) -> Vec<Body> {
    let told = table.round(book, now_ns).unwrap();
    assert!(told.iter().all(|observation| observation.boottime_ns == now_ns));
    told.into_iter().map(|observation| observation.body).collect()
}

fn spawn(body: &Body) -> &Spawn {
    let Body::Spawn(spawn) = body else { panic!("no spawn: {body:?}") };
    spawn
}

#[test]
fn what_was_there_is_inherited_and_what_comes_is_not() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 7, comm: b"gateway", ..Fake::default() });
    fake.put(&Fake { pid: 20, ppid: 7, cmdline: WORKER, ..Fake::default() });
    let mut table = table(&fake);
    // Starts at tick 1500.
    let first = events(&mut table, 1500 * TICK + 3);
    let [body] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!(
        (spawn(body).pid, spawn(body).inherited, spawn(body).source),
        (20, true, Source::Proc)
    );
    assert_eq!(events(&mut table, 1600 * TICK), []);

    let born = Fake { ppid: 7, start_ticks: 1650, cmdline: WORKER, ..Fake::default() };
    fake.put(&Fake { pid: 21, ..born.clone() });
    // Was there before, under another name: it executed since.
    fake.put(&Fake { pid: 22, start_ticks: 1400, ..born.clone() });
    // A descendant and its child, found in one round, of one tick, the child with the lower pid.
    fake.put(&Fake { pid: 30, ppid: 21, cmdline: b"sh\0", ..born.clone() });
    fake.put(&Fake { pid: 29, ppid: 30, cmdline: b"mcp\0secret\0", ..born.clone() });
    let told = events(&mut table, 1700 * TICK);
    let seen: Vec<_> = told
        .iter()
        .map(|body| {
            let spawn = spawn(body);
            (spawn.pid, spawn.role, spawn.inherited, spawn.worker.map(|worker| worker.pid))
        })
        .collect();
    assert_eq!(
        seen,
        [
            (22, Role::Worker, true, None),
            (21, Role::Worker, false, None),
            (30, Role::Descendant, false, Some(21)),
            (29, Role::Descendant, false, Some(21)),
        ]
    );
    assert!(told.iter().all(|body| spawn(body).source == Source::Poll));
    let parent = spawn(&told[1]).parent.as_ref().unwrap();
    assert_eq!((parent.process.pid, parent.how), (7, ParentSource::Proc));
    assert_eq!(spawn(&told[3]).argv, ["mcp"]);
}

#[test]
fn exits_of_everything_that_is_tracked() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 5, sid: 5, ..Fake::default() });
    fake.put(&Fake { pid: 7, ppid: 5, sid: 5, ..Fake::default() });
    fake.put(&Fake { pid: 20, ppid: 7, sid: 5, cmdline: WORKER, ..Fake::default() });
    fake.put(&Fake { pid: 21, ppid: 20, sid: 5, ..Fake::default() });
    fake.put(&Fake { pid: 99, ..Fake::default() });
    let mut table = table(&fake);
    assert_eq!(events(&mut table, 2000 * TICK).len(), 2);
    for pid in [5, 7, 21, 99] {
        fake.remove(pid);
    }
    // Not reaped by its parent, but ended.
    fake.put(&Fake { pid: 20, ppid: 1, state: 'Z', cmdline: b"", ..Fake::default() });
    let mut exits: Vec<_> = events(&mut table, 2100 * TICK)
        .iter()
        .map(|body| {
            let Body::Exit(exit) = body else { panic!("no exit: {body:?}") };
            assert_eq!((exit.code, exit.signal, exit.source), (None, None, Source::Poll));
            (exit.pid, exit.role)
        })
        .collect();
    exits.sort_unstable_by_key(|(pid, _)| *pid);
    assert_eq!(
        exits,
        [(5, Role::Ancestor), (7, Role::Gateway), (20, Role::Worker), (21, Role::Descendant)]
    );
    assert_eq!(events(&mut table, 2200 * TICK), [], "said once");
    assert_eq!(table.0.counters()["exits"], 4);
}

#[test]
fn a_reused_pid_is_an_exit_and_a_spawn() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 20, cmdline: WORKER, ..Fake::default() });
    let mut table = table(&fake);
    events(&mut table, 2000 * TICK);
    fake.put(&Fake { pid: 20, start_ticks: 2050, cmdline: WORKER, ..Fake::default() });
    let told = events(&mut table, 2100 * TICK);
    assert!(
        matches!(told.as_slice(), [Body::Exit(exit), Body::Spawn(spawn)]
            if exit.start_ns == 1000 * TICK && spawn.start_ns == 2050 * TICK && !spawn.inherited),
        "{told:?}"
    );
}

#[test]
fn execs_of_tracked_processes() {
    let fake = FakeProc::new();
    let worker = Fake { pid: 20, cmdline: WORKER, arg_start: 50, ..Fake::default() };
    let fork = Fake { pid: 21, ppid: 20, ..worker.clone() };
    fake.put(&worker);
    fake.put(&fork);
    let mut table = table(&fake);
    let told = events(&mut table, 2000 * TICK);
    assert_eq!(spawn(&told[1]).role, Role::Descendant);

    // Between two programs: no arguments for a moment.
    fake.put(&Fake { cmdline: b"", ..fork.clone() });
    assert_eq!(events(&mut table, 2100 * TICK), []);
    let helper = b"python\0/x/mcp_stdio_watchdog.py\0";
    fake.put(&Fake { cmdline: helper, arg_start: 51, comm: b"new", ..fork.clone() });
    // The worker overwrote its arguments, which is no exec.
    fake.put(&Fake { cmdline: b"title\0", ..worker.clone() });
    let expected = Exec {
        pid: 21,
        start_ns: 1000 * TICK,
        role: Role::Descendant,
        is_worker: false,
        comm: "new".to_owned(),
        argv0: Some("python".to_owned()),
        helper: Some("mcp-watchdog".to_owned()),
        source: Source::Poll,
    };
    assert_eq!(events(&mut table, 2200 * TICK), [Body::Exec(expected)]);

    // A child of a worker that becomes a worker, and a worker that becomes something else.
    fake.put(&Fake { arg_start: 52, ..fork.clone() });
    fake.put(&Fake { cmdline: b"sleep\0", arg_start: 60, ..worker.clone() });
    let told = events(&mut table, 2300 * TICK);
    assert!(
        matches!(told.as_slice(), [Body::Exec(exec), Body::Spawn(spawn)]
            if (exec.pid, exec.role, exec.is_worker) == (20, Role::Worker, false)
                && (spawn.pid, spawn.role) == (21, Role::Worker)),
        "{told:?}"
    );
    // The same program executed again.
    fake.put(&Fake { arg_start: 53, ..fork.clone() });
    let told = events(&mut table, 2400 * TICK);
    assert!(matches!(told.as_slice(), [Body::Exec(exec)] if exec.is_worker), "{told:?}");
}

#[test]
fn an_old_process_that_executes_a_worker_is_found() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 20, cmdline: b"sh\0", ..Fake::default() });
    let mut table = table(&fake);
    for round in 0..30 {
        assert_eq!(events(&mut table, (2000 + round) * TICK), []);
    }
    fake.put(&Fake { pid: 20, cmdline: WORKER, ..Fake::default() });
    let found = (0..10).any(|round| !events(&mut table, (2100 + round) * TICK).is_empty());
    assert!(found, "within ten rounds");
}

#[test]
fn arguments_that_are_too_long_to_be_searched_are_a_gap() {
    let fake = FakeProc::new();
    let mut long = vec![b'x'; ARGV_SEARCHED_BYTES];
    long.extend(b"\0-m\0tui_gateway.slash_worker\0");
    fake.put(&Fake { pid: 20, cmdline: &long, ..Fake::default() });
    let mut table = table(&fake);
    let told = events(&mut table, 2000 * TICK);
    assert!(matches!(told.as_slice(), [Body::Gap(gap)] if !gap.resynced), "{told:?}");
    assert_eq!(events(&mut table, 2100 * TICK), [], "said once");
}

#[test]
fn unreadable_proc_says_what_to_do() {
    let options = options(Duration::from_secs(1));
    let error = PollSensor::start_at(ProcFs::new("/nowhere"), &options).unwrap_err();
    assert!(format!("{error:#}").contains("mount -t proc"), "{error:#}");
}

#[test]
fn capabilities_say_what_cannot_be_seen() {
    let fake = FakeProc::new();
    let mut options = options(Duration::from_secs(5));
    options.count_calls = true;
    let sensor = PollSensor::start_at(fake.proc(), &options).unwrap();
    let description = sensor.describe();
    assert_eq!((description.kind, description.calls_counted), (SensorKind::Poll, false));
    let refused = |name: &str| {
        description.capabilities.iter().any(|c| c.name == name && !c.ok && !c.detail.is_empty())
    };
    for name in ["exit-code", "signals", "short-lived", "fork-parent", "count-calls"] {
        assert!(refused(name), "{name}");
    }
    assert_eq!(description.limits.ring_bytes, 0);

    fake.remove(1);
    let hidden = capabilities::of(&fake.proc(), Duration::from_secs(1), false);
    let other = hidden.iter().find(|c| c.name == "other-users").unwrap();
    assert!(!other.ok && other.detail.contains("hidepid"), "{other:?}");
}

fn options(sample_interval: Duration) -> Options {
    Options {
        profile: Profile::hermes(),
        sample_interval,
        count_calls: false,
        terminal_hook: crate::sensor::TerminalChoice::Auto,
        kernel_log: false,
        before: crate::sensor::Before::default(),
    }
}

/// The interpreter itself: `python3` may be a script that finds it.
fn python() -> String {
    let args = ["-c", "import sys; print(sys.executable, end='')"];
    let output = Command::new("python3").args(args).output().unwrap();
    assert!(output.status.success(), "python3 is needed: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A real process with a worker's arguments, which runs `code`; killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(session: &str, code: &str) -> Self {
        let child = Command::new(python())
            .args(["-c", code, "-m", "tui_gateway.slash_worker", "--session-key", session])
            .args(["--model", "m1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session that no other test on this machine uses.
fn session(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A sensor, and everything that it has said.
struct Watching {
    sensor: PollSensor,
    told: Vec<Body>,
}

impl Watching {
    fn start() -> Self {
        let sensor = PollSensor::start(&options(Duration::from_millis(40))).unwrap();
        // What is spawned from now on starts in a later clock tick.
        std::thread::sleep(Duration::from_millis(30));
        Self { sensor, told: Vec::new() }
    }

    /// Reads until something that was said, now or earlier, is `wanted`.
    fn wait_for<T>(&mut self, mut wanted: impl FnMut(&Body) -> Option<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let waiting = async {
                loop {
                    if let Some(found) = self.told.iter().find_map(&mut wanted) {
                        return found;
                    }
                    // Dropped half-way again and again: nothing may be lost by that.
                    let next = tokio::time::timeout(Duration::from_millis(7), self.sensor.next());
                    if let Ok(told) = next.await {
                        self.told.extend(told.unwrap().into_iter().map(|told| told.body));
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("not seen in 20 s")
        })
    }

    fn spawned(&mut self, session: &str) -> Spawn {
        self.wait_for(|body| match body {
            Body::Spawn(spawn) if spawn.session.as_deref() == Some(session) => {
                Some((**spawn).clone())
            }
            _ => None,
        })
    }

    fn exited(&mut self, pid: u32) -> Exit {
        self.wait_for(|body| match body {
            Body::Exit(exit) if exit.pid == pid => Some(exit.clone()),
            _ => None,
        })
    }
}

#[test]
fn a_real_worker_from_spawn_to_exit() {
    let key = session("life");
    let mut watching = Watching::start();
    let code = "import subprocess, sys\n\
                child = subprocess.Popen(['sleep', '60'])\n\
                sys.stdin.readline()\n\
                child.kill(); child.wait()\n\
                sys.stdin.readline()\n";
    let mut worker = Worker::start(&key, code);
    let spawn = watching.spawned(&key);
    assert_eq!((spawn.pid, spawn.role), (worker.0.id(), Role::Worker));
    assert_eq!((spawn.source, spawn.inherited), (Source::Poll, false));
    assert_eq!(spawn.model.as_deref(), Some("m1"));
    let parent = spawn.parent.as_ref().unwrap();
    assert_eq!((parent.process.pid, parent.reaper), (std::process::id(), false));
    assert!(spawn.start_ns <= clock::boottime_ns());
    assert!(clock::boottime_ns() - spawn.start_ns < 60 * SECOND, "its start time is sane");

    // Seen as a fork that is to execute yet, or after that.
    let child = watching.wait_for(|body| match body {
        Body::Spawn(child) if child.worker == Some(spawn.identity()) => Some(child.pid),
        _ => None,
    });
    let stdin = watching.wait_for(|body| match body {
        Body::Sample(sample) if sample.identity() == spawn.identity() => sample.stdin,
        _ => None,
    });
    assert_eq!(stdin.state, StdinState::Held);
    assert_eq!(stdin.holder.unwrap().pid, std::process::id());

    worker.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(watching.exited(child).role, Role::Descendant);
    drop(worker.0.stdin.take());
    let exit = watching.exited(spawn.pid);
    assert_eq!((exit.identity(), exit.role), (spawn.identity(), Role::Worker));
    assert!(Box::new(watching.sensor).finish().unwrap().complete);
}

#[test]
fn a_real_worker_that_was_there_before() {
    let key = session("before");
    let _worker = Worker::start(&key, "import time; time.sleep(60)");
    // It may still be the test's own program: then it becomes a worker by exec.
    let mut watching = Watching::start();
    assert!(watching.spawned(&key).inherited);
}

#[test]
fn a_real_worker_that_executes_again() {
    let key = session("again");
    let mut watching = Watching::start();
    let code = "import os, sys; sys.stdin.readline(); os.execvp('sleep', ['sleep', '60'])";
    let mut worker = Worker::start(&key, code);
    let spawn = watching.spawned(&key);
    worker.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let exec = watching.wait_for(|body| match body {
        Body::Exec(exec) if exec.identity() == spawn.identity() => Some(exec.clone()),
        _ => None,
    });
    assert_eq!(
        (exec.role, exec.is_worker, exec.argv0.as_deref()),
        (Role::Worker, false, Some("sleep"))
    );
}

#[test]
fn a_real_gateway_that_dies_leaves_an_adopted_worker() {
    let key = session("adopted");
    let mut watching = Watching::start();
    // The gateway starts a worker, says its pid, and ends when it is told to.
    let code = "import subprocess, sys\n\
                w = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)',\n\
                    '-m', 'tui_gateway.slash_worker', '--session-key', sys.argv[1]])\n\
                print(w.pid, flush=True)\n\
                sys.stdin.readline()\n";
    let mut gateway = Command::new(python())
        .args(["-c", code, &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let spawn = watching.spawned(&key);
    assert_eq!(spawn.parent.as_ref().unwrap().process.pid, gateway.id());
    drop(gateway.stdin.take());
    gateway.wait().unwrap();
    let exit = watching.exited(gateway.id());
    assert_eq!(exit.role, Role::Gateway);
    assert_eq!(exit.identity(), spawn.parent.as_ref().unwrap().process.identity());
    // A grandchild that nobody here can wait for: its pid is checked to be the same process.
    let proc = ProcFs::default();
    let stat = proc.stat(spawn.pid).unwrap().unwrap();
    assert!(proc.is_same(spawn.identity(), &stat));
    let pid = rustix::process::Pid::from_raw(spawn.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(watching.exited(spawn.pid).role, Role::Worker);
}
