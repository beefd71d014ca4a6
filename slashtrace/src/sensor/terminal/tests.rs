use std::os::{fd::OwnedFd, unix::fs::symlink};

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use super::*;
use crate::{
    evidence::samples,
    host::proc::fake::{Fake, FakeProc},
};

/// A PTY of this test: its master, the path of its slave, its place.
fn terminal() -> (OwnedFd, String, Place) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
    let instance = Devpts::at(Path::new("/dev/pts")).expect("it is on one").instance();
    (master, slave, (instance, index))
}

fn watch(proc: ProcFs) -> Option<TerminalWatch> {
    let watch = TerminalWatch::start(proc, None, &[]);
    if !watch.capability().ok {
        eprintln!("SKIPPED: {}", watch.capability().detail);
        return None;
    }
    Some(watch)
}

/// The spawn of 10 on a terminal, which it has by now or has no more.
fn spawn_on(fake: &FakeProc, (instance, index): Place, has_it: bool) -> Spawn {
    let tty_nr = if has_it { (index & !0xff) << 12 | 136 << 8 | index & 0xff } else { 0 };
    fake.put(&Fake { pid: 10, tty_nr, ..Fake::default() });
    let mut spawn = samples::spawn();
    spawn.pid = 10;
    spawn.start_ns = fake.proc().stat(10).unwrap().unwrap().start_ns;
    spawn.terminal = Some(Terminal { instance: Some(instance), index });
    spawn
}

/// What was told of a place last.
fn told(found: &[Observation], place: Place) -> Option<&TerminalEvent> {
    let mut events = found.iter().filter_map(|observation| match &observation.body {
        Body::Terminal(event) => Some(&**event),
        _ => None,
    });
    events.rfind(|event| (event.instance, event.index) == place)
}

/// The making of a terminal was read before a spawn on it is told: it is no later than that.
#[tokio::test]
async fn a_terminal_is_told_no_later_than_the_worker_that_was_born_on_it() {
    let fake = FakeProc::new();
    let Some(mut watch) = watch(fake.proc()) else { return };
    let (master, _, place) = terminal();
    let at = boottime_ns();
    watch.read();
    let found = watch.spawned(&mut spawn_on(&fake, place, true), at);
    assert!(told(&found, place).expect("it is told").opened_ns <= at);
    drop(master);
    watch.read();
    let closed = watch.apply();
    assert_eq!(told(&closed, place).expect("it is told").state, TerminalState::Closed);
}

/// A spawn is told late: its terminal was closed, and its index is another's by now.
#[tokio::test]
async fn a_terminal_that_was_opened_behind_a_spawn_is_not_the_one_it_was_born_on() {
    for has_it in [false, true] {
        let fake = FakeProc::new();
        let Some(mut watch) = watch(fake.proc()) else { return };
        let (master, _, place) = terminal();
        drop(watch.take());
        let at = boottime_ns();
        drop(master);
        let (master, _, again) = terminal();
        if again != place {
            eprintln!("SKIPPED: another process got the index");
            return;
        }
        let found = watch.spawned(&mut spawn_on(&fake, place, has_it), at);
        // Or it was born on the later one, and the news of both came at once.
        let opened = told(&found, place).expect("it is told").opened_ns;
        assert_eq!(opened <= at, has_it, "{found:?}");
        drop(master);
    }
}

/// A descriptor says its index alone; and it can be sent to anybody.
#[tokio::test]
async fn a_master_is_held_by_its_owner_alone() {
    let fake = FakeProc::new();
    let Some(mut watch) = watch(fake.proc()) else { return };
    let (_master, slave, place) = terminal();
    // The made-up processes' real user.
    if std::os::unix::fs::chown(&slave, Some(1000), None).is_err() {
        eprintln!("SKIPPED: not root: the terminal cannot be given away");
        return;
    }
    for pid in [10, 11] {
        fake.put(&Fake { pid, ..Fake::default() });
        symlink("/", fake.dir(pid).join("root")).unwrap();
    }
    fake.master(10, 7, place.1);
    drop(watch.take());
    let mut master = |pids: &[u32]| {
        watch.gateways = pids.iter().map(|&pid| (pid, process(&fake, pid))).collect();
        watch.open.get_mut(&place).expect("it is open").told = None;
        let mut found = Vec::new();
        watch.tell(Some(place), None, &mut found);
        told(&found, place).expect("it is told").master.as_ref().map(|master| master.pid)
    };
    assert_eq!(master(&[10, 11]), Some(10));
    fake.master(11, 9, place.1);
    assert_eq!(master(&[10, 11]), None, "two of them say so");
    std::os::unix::fs::chown(&slave, Some(1001), None).unwrap();
    assert_eq!(master(&[10]), None, "it is another user's");
}

fn process(fake: &FakeProc, pid: u32) -> Process {
    let start_ns = fake.proc().stat(pid).unwrap().unwrap().start_ns;
    Process { pid, start_ns, comm: "python".to_owned(), argv0: None, launcher: None }
}

/// More happened than the queue holds: that is a gap, and what is there is read again.
#[tokio::test]
async fn an_overflow_is_a_gap_and_resyncs() {
    const LENGTH: &str = "/proc/sys/fs/inotify/max_queued_events";
    let Ok(before) = std::fs::read_to_string(LENGTH) else { return };
    // It is copied by each watch that begins (inotify(7)), so only this one gets it.
    if std::fs::write(LENGTH, "4").is_err() {
        eprintln!("SKIPPED: not root: the queue cannot be made short");
        return;
    }
    let mut watch = TerminalWatch::start(ProcFs::new("/proc"), None, &[]);
    std::fs::write(LENGTH, before.trim()).unwrap();
    if !watch.capability().ok {
        return;
    }
    let open = || openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let masters: Vec<_> = (0..8).map(|_| open()).collect();
    let found = watch.take();
    let gaps = found.iter().filter(|observation| {
        matches!(&observation.body, Body::Gap(gap) if gap.reason == GapReason::QueueFull && gap.resynced)
    });
    assert_eq!(gaps.count(), 1, "{found:?}");
    for master in &masters {
        let slave = ptsname(master, Vec::new()).unwrap().into_string().unwrap();
        let index: u32 = slave.rsplit('/').next().unwrap().parse().unwrap();
        assert!(watch.open.keys().any(|place| place.1 == index), "{slave}");
    }
    drop(masters);
}
