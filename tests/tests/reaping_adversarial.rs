//! `slashtrace run --policy enforce` against pids that are reused, programs that change, parents that
//! adopt, and users who want somebody else's worker ended.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use slashtrace::model::{Identity, Kind, Outcome, Phase, Record, Spawn, Step as ReaperStep};
use slashtrace_tests::{
    Program, Step, Subject, host,
    reaping::{
        LONG, PATIENCE, actions, every_trigger, gone_gateway, is_there, of, reaper, reaper_at_age,
        worker_of,
    },
    recorded::finding,
};

/// From SIGTERM to SIGKILL where the pid is reused in between.
const TERM_GRACE_S: u64 = 15;
/// A user who owns nothing.
const NOBODY: u32 = 65_534;

fn sent(records: &[Record], worker: Identity) -> bool {
    of(records, worker).iter().any(|(.., outcome)| *outcome == Some(Outcome::Sent))
}

/// Starts `program` with the pid of a process that has just been reaped; nothing where another
/// process got it first.
fn start_as(pid: u32, program: &Program) -> Option<Subject> {
    let last = "/proc/sys/kernel/ns_last_pid";
    fs::write(last, (pid - 1).to_string()).expect("root sets the last pid");
    let subject = program.start();
    (subject.pid() == pid).then_some(subject)
}

/// Between SIGTERM and SIGKILL the worker ends, and its pid becomes that of a worker of the very
/// same arguments that is in use.
#[test]
fn a_reused_pid_gets_no_sigkill() {
    if !host::may_load_kernel_programs() {
        return;
    }
    for _ in 0..5 {
        // Time enough for a slow machine to stop the daemon between its two signals.
        let recording = reaper("enforce").flag(&format!("--term-grace={TERM_GRACE_S}s")).start();
        // Reaped by this process, so that it is known when the pid is free.
        let steps = vec![Step::IgnoreTerm, Step::Sleep(LONG)];
        let worker = recording.worker("stubborn", steps);
        // Its stdin is held, and then by nobody: `unreachable`.
        let mut old = worker.command().stdin(Stdio::piped()).spawn().expect("it starts");
        let first = worker_of(&recording, "stubborn").identity();
        thread::sleep(Duration::from_secs(2));
        drop(old.stdin.take());
        recording.wait_for("SIGTERM", PATIENCE, |records| sent(records, first));
        recording.freeze(true);
        old.kill().expect("it is ours");
        old.wait().expect("it can be waited for");
        let again = recording.worker("stubborn", vec![Step::Serve]);
        let reused = start_as(first.pid, &again);
        recording.freeze(false);
        let Some(mut reused) = reused else {
            drop(recording.stop());
            continue;
        };
        thread::sleep(Duration::from_secs(TERM_GRACE_S));
        reused.call();
        let recorded = recording.stop();
        let second = recorded.workers_of("stubborn")[1].identity();
        assert_eq!(second.pid, first.pid);
        assert!(recorded.signals_of(second).is_empty(), "{recorded}");
        assert!(of(&recorded.records, second).is_empty(), "{recorded}");
        let last = of(&recorded.records, first).pop();
        assert_eq!(last, Some((ReaperStep::Result, Phase::After, Some(Outcome::Exited))));
        return;
    }
    host::skip("other processes took the pid five times");
}

#[test]
fn one_that_executes_something_else_on_sigterm_gets_no_sigkill() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = reaper("enforce").flag("--term-grace=1s").start();
    let other = Program::new("other", vec![Step::Sleep(LONG)]);
    gone_gateway([recording.worker("turns", vec![Step::AwaitTerm, Step::Exec(other)])]);
    let worker = worker_of(&recording, "turns").identity();
    recording.wait_for("the result", PATIENCE, |records| {
        actions(records).iter().any(|action| action.step == ReaperStep::Result)
    });
    thread::sleep(Duration::from_secs(2));
    assert!(is_there(worker.pid), "it is no worker any more");
    let recorded = recording.stop();
    assert_eq!(
        of(&recorded.records, worker),
        [
            (ReaperStep::Terminate, Phase::Before, None),
            (ReaperStep::Terminate, Phase::After, Some(Outcome::Sent)),
            (ReaperStep::Result, Phase::After, Some(Outcome::Withdrawn)),
        ]
    );
    let signals = recorded.signals_of(worker);
    assert!(signals.iter().all(|signal| signal.signal == 15 || !signal.delivered), "{signals:?}");
}

#[test]
fn one_that_executes_something_else_before_sigterm_gets_none() {
    if !host::may_load_kernel_programs() {
        return;
    }
    // Found to be an orphan after 5 s, old enough after 12 s, and another program in between.
    let recording = reaper_at_age("enforce", "12s").start();
    let other = Program::new("other", vec![Step::Sleep(LONG)]);
    gone_gateway([recording.worker("turned", vec![Step::Sleep(9_000), Step::Exec(other)])]);
    let worker = worker_of(&recording, "turned").identity();
    recording.wait_for("the finding", PATIENCE, |records| {
        records.iter().filter_map(finding).any(|finding| finding.kind == Kind::GatewayOrphan)
    });
    assert!(actions(&recording.so_far()).is_empty(), "it is too young");
    thread::sleep(Duration::from_secs(10));
    assert!(is_there(worker.pid));
    let recorded = recording.stop();
    assert!(actions(&recorded.records).is_empty(), "{recorded}");
    assert!(recorded.signals_of(worker).is_empty(), "{recorded}");
}

/// Whether there is what [`contained`] needs; if not, says that the test is skipped.
fn may_contain() -> bool {
    // That of busybox has no --kill-child, and no version.
    let version = Command::new("unshare").arg("--version").output();
    let there = version.is_ok_and(|output| output.status.success());
    if !there {
        host::skip("no unshare of util-linux");
    }
    there
}

/// A command that runs a program as pid 1 of a pid namespace.
fn contained(program: &Program) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(host::subject());
    program.apply(&mut command);
    command
}

#[test]
fn the_first_process_of_a_container_and_a_subreaper_are_parents_like_others() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if !may_contain() {
        return;
    }
    let recording = every_trigger(reaper("enforce")).start();
    let serving = |session: &str| Step::SpawnWithPipe(recording.worker(session, vec![Step::Serve]));
    let steps = vec![serving("contained"), Step::Sleep(LONG)];
    let contained = Subject::of(&mut contained(&Program::new("init", steps)));
    // What a gateway below it leaves behind is adopted by it, and it goes on.
    let gateway = Program::new(
        "gateway",
        vec![
            Step::SpawnWithPipe(
                recording.worker("adopted", vec![Step::IgnoreTerm, Step::Sleep(LONG)]),
            ),
            Step::Sleep(3_000),
        ],
    );
    let steps =
        vec![Step::Subreaper, serving("own"), Step::Spawn(gateway), Step::Sleep(500), Step::Reap];
    let subreaper = Program::new("manager", steps).start();

    let adopted = worker_of(&recording, "adopted").identity();
    recording.wait_for("SIGTERM", PATIENCE, |records| sent(records, adopted));
    let parent = fs::read_to_string(format!("/proc/{}/stat", adopted.pid)).expect("it ignores it");
    let parent = parent.rsplit_once(") ").expect("a line").1.split(' ').nth(1);
    assert_eq!(parent, Some(subreaper.pid().to_string().as_str()), "it was adopted");
    thread::sleep(Duration::from_secs(2));
    let used = ["contained", "own"].map(|session| worker_of(&recording, session).identity());
    assert!(used.iter().all(|worker| is_there(worker.pid)));
    let recorded = recording.stop();
    for worker in used {
        assert!(of(&recorded.records, worker).is_empty(), "{recorded}");
        assert!(recorded.signals_of(worker).is_empty(), "{recorded}");
    }
    let first = actions(&recorded.records)[0];
    assert_eq!(first.worker, Some(adopted));
    assert!(matches!(first.kind, Some(Kind::GatewayOrphan | Kind::Unreachable)), "{first:?}");
    drop((contained, subreaper));
}

/// A gateway in a container, and a foreigner in it whose process its first process adopts: forked
/// before slashtrace watches, so that nobody knows by whom, and executed with a worker's arguments and
/// the victim's session key. By all that is seen it is a second worker of that session, and the one
/// that is used.
///
/// What else a foreigner could try. He rewrites argv (`prctl(PR_SET_MM)`), stops or execs: only of
/// his own processes, and the real user id is checked against that of the spawn before each signal; he
/// may signal whom he may have judged (kill(2): same real user id), setuid programs that he starts
/// included. He opens connections to the victim's gateway and closes them: clients are counted, and
/// more of them prove it in use. He shows the victim's session on a terminal of his own: see
/// `reaping_terminals`. He has a gateway of his own exit: a group is of one gateway, which the kernel
/// read. He holds no pipe of the victim's and can let go of none.
#[test]
fn a_foreigner_cannot_have_the_worker_of_another_user_ended() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if !may_contain() {
        return;
    }
    // Brought up to date before the time runs.
    host::slashtrace();
    let setup = every_trigger(reaper("enforce")).flag("--count-calls");
    let forger = setup.worker("victim", vec![Step::Serve]);
    let own_gateway = Program::new(
        "gateway",
        vec![
            Step::SpawnWithPipe(setup.worker("victim", vec![Step::Sleep(LONG)])),
            Step::Sleep(3_000),
        ],
    );
    let adopted = vec![
        Step::User(NOBODY),
        Step::Fork(vec![Step::Sleep(10_000), Step::Exec(forger)]),
        // And a gateway of his own that is gone, with the same session.
        Step::Fork(vec![Step::Sleep(11_000), Step::Exec(own_gateway)]),
    ];
    let victim = setup.worker("victim", vec![Step::Serve]);
    let steps =
        vec![Step::Fork(adopted), Step::AwaitByte, Step::SpawnWithPipe(victim), Step::Sleep(LONG)];
    let mut gateway = Subject::of(&mut contained(&Program::new("gateway", steps)));
    // Until the foreigner's first process has ended.
    thread::sleep(Duration::from_secs(1));
    let recording = setup.start();
    gateway.go_on();
    let of_user = |records: &[Record], uid: u32| -> Vec<Identity> {
        let workers = slashtrace_tests::recorded::workers(records);
        workers.into_iter().filter(|one| one.uid == uid).map(Spawn::identity).collect()
    };
    recording.wait_for("both workers", PATIENCE, |records| {
        !of_user(records, 0).is_empty() && !of_user(records, NOBODY).is_empty()
    });
    let victim = of_user(&recording.so_far(), 0)[0];
    for _ in 0..6 {
        gateway.call();
        thread::sleep(Duration::from_secs(1));
    }
    recording.wait_for("the end of the orphan", PATIENCE, |records| {
        actions(records).iter().any(|action| action.outcome == Some(Outcome::Exited))
    });
    assert!(is_there(victim.pid), "it is in use");
    let recorded = recording.stop();
    let spawns = recorded.workers_of("victim");
    let gateways: Vec<u32> =
        spawns.iter().map(|w| w.parent.as_ref().unwrap().process.pid).collect();
    assert_eq!(gateways[0], gateways[1], "the forger is taken for the gateway's\n{recorded}");
    assert!(of(&recorded.records, victim).is_empty(), "{recorded}");
    assert!(recorded.signals_of(victim).is_empty(), "{recorded}");
    let lost = recorded.findings().into_iter().filter(|found| found.kind == Kind::LostWorker);
    assert_eq!(lost.count(), 0, "{recorded}");
}
