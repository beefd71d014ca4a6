use std::{collections::HashMap, fs};

use super::*;
use crate::{
    host::proc::fake::{FAKE, Fake, FakeProc, WORKER},
    model::{EndKind, OutputState, StdinState},
};

const SECOND: u64 = 1_000_000_000;

/// A worker 20 of gateway 10 in a made-up /proc, sampled at whole seconds.
struct World {
    fake: FakeProc,
    sampler: Sampler,
    book: IdentityBook,
    reads: Option<u64>,
}

impl World {
    fn new() -> Self {
        let fake = FakeProc::new();
        let proc = fake.proc();
        let mut world = Self {
            book: IdentityBook::new(proc.tick_ns()),
            sampler: Sampler::new(proc),
            fake,
            reads: None,
        };
        world.fake.put(&Fake { pid: 10, ..Fake::default() });
        world.worker(20);
        world
    }

    fn worker(&mut self, pid: u32) -> Identity {
        self.fake.put(&Fake { pid, ppid: 10, cmdline: WORKER, ..Fake::default() });
        let identity = self.id(pid);
        let gateway = self.id(10);
        self.sampler.track(identity, Role::Worker, Some(gateway));
        identity
    }

    fn id(&mut self, pid: u32) -> Identity {
        self.book.proc(pid, 1000 * self.fake.proc().tick_ns())
    }

    fn at(&mut self, second: u64) -> Round {
        let reads = self.reads;
        self.sampler.sample(second * SECOND, &mut self.book, &|_| reads)
    }

    fn samples(&mut self, second: u64) -> Vec<Sample> {
        let samples = |observation: Observation| match observation.body {
            Body::Sample(sample) => Some(sample),
            _ => None,
        };
        self.at(second).observations.into_iter().filter_map(samples).collect()
    }

    /// What a round says of the worker's stdin, if anything.
    fn stdin(&mut self, second: u64) -> Option<(StdinState, Option<u32>)> {
        let stdin = self.samples(second).first()?.stdin?;
        Some((stdin.state, stdin.holder.map(|holder| holder.pid)))
    }
}

#[test]
fn a_sample_is_written_when_something_changed() {
    let mut world = World::new();
    let base = Fake { pid: 20, ppid: 10, cmdline: WORKER, ..Fake::default() };
    let first = world.samples(0);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].pid, first[0].state, first[0].rss_kib), (20, 'S', Some(100_000)));
    assert_eq!((first[0].threads, first[0].syscr, first[0].reads), (Some(1), Some(100), None));

    let mut second = 0;
    let mut then = |world: &mut World, fake: Fake<'_>| {
        world.fake.put(&fake);
        second += 1;
        world.samples(second).len()
    };
    assert_eq!(then(&mut world, base.clone()), 0, "nothing changed");
    assert_eq!(then(&mut world, Fake { state: 'R', ..base.clone() }), 0, "R is as good as S");
    assert_eq!(then(&mut world, Fake { state: 'D', ..base.clone() }), 0, "and D");
    assert_eq!(then(&mut world, Fake { state: 'T', ..base.clone() }), 1, "stopped");
    assert_eq!(then(&mut world, base.clone()), 1, "and continued");
    assert_eq!(then(&mut world, Fake { rss_pages: 26_249, ..base.clone() }), 0, "below 5 %");
    assert_eq!(then(&mut world, Fake { rss_pages: 26_250, ..base.clone() }), 1, "5 %");
    assert_eq!(then(&mut world, Fake { rss_pages: 25_000, ..base.clone() }), 0, "and back: less");
    assert_eq!(then(&mut world, Fake { threads: 2, ..base.clone() }), 0, "no news alone");
    assert_eq!(then(&mut world, Fake { threads: 2, syscr: Some(101), ..base.clone() }), 1);
    world.reads = Some(1);
    assert_eq!(then(&mut world, Fake { threads: 2, syscr: Some(101), ..base.clone() }), 1);
}

#[test]
fn the_memory_of_launchers_is_read_once_a_minute_and_of_those_that_are_there() {
    let mut world = World::new();
    let process = |world: &mut World, pid, launcher: Option<&str>| {
        world.fake.put(&Fake { pid, ..Fake::default() });
        let mut process = crate::model::testing::process(world.id(pid));
        process.launcher = launcher.map(str::to_owned);
        process
    };
    let mut spawn = crate::model::testing::spawn(world.id(20)).forked_by(world.id(12));
    spawn.parent.as_mut().unwrap().process = process(&mut world, 12, Some("sh -c"));
    spawn.ancestors = vec![process(&mut world, 11, Some("npx")), process(&mut world, 10, None)];
    world.sampler.launched(&spawn);
    let mut syscr = 100;
    let mut at = |world: &mut World, second| {
        // It ran, so that it is looked at.
        syscr += 1;
        let ran = Fake { pid: 20, ppid: 10, cmdline: WORKER, ..Fake::default() };
        world.fake.put(&Fake { syscr: Some(syscr), ..ran });
        world.samples(second).first().and_then(|sample| sample.launchers_rss_kib)
    };
    assert_eq!(at(&mut world, 0), Some(200_000), "of two, not of the gateway");
    world.fake.remove(11);
    assert_eq!(at(&mut world, 30), None);
    assert_eq!(at(&mut world, 60), Some(100_000));
    // A launcher with a worker's own arguments, and what launched it.
    let mut outer = crate::model::testing::spawn(world.worker(21)).forked_by(world.id(12));
    outer.session = Some("K".to_owned());
    outer.parent.clone_from(&spawn.parent);
    world.sampler.launched(&outer);
    let mut inner = crate::model::testing::spawn(world.id(20)).forked_by(world.id(21));
    inner.session = Some("K".to_owned());
    world.sampler.launched(&inner);
    assert_eq!(at(&mut world, 120), Some(200_000), "21 and 12");
    inner.session = Some("another".to_owned());
    world.sampler.launched(&inner);
    assert_eq!(at(&mut world, 180), None, "21 is a worker of its own");
}

#[test]
fn a_small_process_is_judged_by_percent() {
    assert!(moved(1000, 1050, 5, 1024));
    assert!(!moved(1000, 1049, 5, 1024));
    assert!(moved(1000, 950, 5, 1024));
    assert!(!moved(0, 0, 5, 1024));
    assert!(moved(0, 1, 5, 1024));
    assert!(!moved(u64::MAX, u64::MAX, 5, 1024));
}

#[test]
fn a_quiet_worker_is_written_every_three_hours() {
    let mut world = World::new();
    assert_eq!(world.samples(0).len(), 1);
    let written: Vec<u64> = (1..25_000).filter(|&s| !world.samples(s).is_empty()).collect();
    assert_eq!(written, [10_800, 21_600]);
}

#[test]
fn a_tiny_process_that_moves_by_some_pages_is_no_news() {
    let mut world = World::new();
    let tiny = |rss_pages| Fake { pid: 20, ppid: 10, rss_pages, cmdline: WORKER, ..FAKE };
    world.fake.put(&tiny(200));
    assert_eq!(world.samples(0).len(), 1);
    world.fake.put(&tiny(260));
    assert_eq!(world.samples(1).len(), 0, "30 %, and 240 KiB");
    world.fake.put(&tiny(328));
    assert_eq!(world.samples(2).len(), 1);
}

#[test]
fn the_number_of_threads_is_news_after_a_minute() {
    let mut world = World::new();
    world.at(0);
    world.fake.put(&Fake { pid: 20, ppid: 10, threads: 2, cmdline: WORKER, ..FAKE });
    let written: Vec<u64> = (1..200).filter(|&s| !world.samples(s).is_empty()).collect();
    assert_eq!(written, [60]);
}

#[test]
fn a_reused_pid_is_never_sampled() {
    let mut world = World::new();
    let worker = world.id(20);
    world.at(0);
    world.fake.put(&Fake { pid: 20, start_ticks: 1001, cmdline: WORKER, ..Fake::default() });
    for second in 1..4 {
        let round = world.at(second);
        assert_eq!((round.observations, round.vanished), (vec![], vec![worker]));
    }
    world.sampler.untrack(worker);
    assert_eq!(world.at(4), Round::default());
    assert_eq!(world.sampler.workers(), 0);
}

#[test]
fn what_may_not_be_read_is_absent() {
    let mut world = World::new();
    // Not a file: reading it fails, even for root.
    fs::remove_file(world.fake.dir(20).join("io")).unwrap();
    fs::create_dir(world.fake.dir(20).join("io")).unwrap();
    let first = world.samples(0);
    assert_eq!((first[0].syscr, first[0].rss_kib), (None, Some(100_000)));
    fs::remove_dir(world.fake.dir(20).join("io")).unwrap();
    world.worker(20);
    assert!(world.samples(1).is_empty(), "not asked again at once");
    assert_eq!(world.samples(60)[0].syscr, Some(100));
}

#[test]
fn a_zombie_is_said_once_and_its_end_once() {
    let mut world = World::new();
    let worker = world.id(20);
    world.at(0);
    let dead = Fake { pid: 20, ppid: 10, state: 'Z', cmdline: b"", ..Fake::default() };
    world.fake.put(&dead);
    assert_eq!(world.at(1).vanished, [worker], "a zombie no longer works");
    world.sampler.exited(worker);
    let states = |world: &mut World, seconds: std::ops::Range<u64>| {
        let mut states = String::new();
        for second in seconds {
            states.extend(world.samples(second).iter().map(|sample| sample.state));
        }
        states
    };
    assert_eq!(states(&mut world, 2..100), "Z");
    world.fake.remove(20);
    assert_eq!(states(&mut world, 100..140), "X");
    assert_eq!(states(&mut world, 140..300), "");
}

#[test]
fn a_zombie_below_a_worker_is_said_too() {
    let mut world = World::new();
    world.fake.put(&Fake { pid: 30, ppid: 20, ..Fake::default() });
    let (worker, child) = (world.id(20), world.id(30));
    world.sampler.track(child, Role::Descendant, Some(worker));
    world.at(0);
    world.fake.put(&Fake { pid: 30, ppid: 20, state: 'Z', cmdline: b"", ..Fake::default() });
    world.sampler.exited(child);
    let states = |world: &mut World, seconds: std::ops::Range<u64>| {
        let mut states = String::new();
        for second in seconds {
            let samples = world.samples(second);
            states.extend(samples.iter().filter(|it| it.pid == 30).map(|sample| sample.state));
        }
        states
    };
    assert_eq!(states(&mut world, 1..60), "Z");
    world.fake.remove(30);
    assert_eq!(states(&mut world, 60..120), "X");
}

#[test]
fn a_worker_that_is_reaped_at_once_was_no_zombie() {
    let mut world = World::new();
    let worker = world.id(20);
    world.at(0);
    world.sampler.exited(worker);
    // Its pid is another process by now.
    world.fake.put(&Fake { pid: 20, start_ticks: 9999, state: 'Z', ..Fake::default() });
    for second in 1..100 {
        assert_eq!(world.at(second).observations, []);
    }
}

#[test]
fn the_gateway_holds_stdin() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    // A worker that holds its own write end does not count.
    world.fake.fd(20, 9, "pipe:[500]", "01");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    let gateway = world.id(10);
    let sample = world.samples(0)[0].clone();
    assert_eq!(
        sample.stdin,
        Some(StdinPeer {
            kind: Some(EndKind::Pipe),
            state: StdinState::Held,
            holder: Some(gateway)
        })
    );
    assert!(world.samples(1).is_empty());
}

#[test]
fn unheld_is_believed_when_two_searches_agree() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    assert_eq!(world.stdin(0), Some((StdinState::Held, Some(10))));
    world.fake.close(10, 4);
    // The first search is at once, and the second soon: until then nothing is said.
    assert_eq!(world.stdin(1), None);
    assert_eq!(world.stdin(2), Some((StdinState::Unheld, None)));
    // Somebody got it again (it was passed through a socket): searches go on.
    world.fake.fd(1, 7, "pipe:[500]", "02");
    let held = (3..40).find_map(|second| world.stdin(second));
    assert_eq!(held, Some((StdinState::Held, Some(1))));
}

#[test]
fn a_holder_that_nobody_may_look_at_makes_it_unknown() {
    let mut world = World::new();
    world.fake.put(&Fake { pid: 30, ..Fake::default() });
    world.fake.hide_fds(30);
    world.fake.fd(20, 0, "pipe:[500]", "00");
    assert_eq!(world.stdin(0), Some((StdinState::Unknown, None)));
    for second in 1..50 {
        assert_eq!(world.stdin(second), None, "and stays so");
    }
}

#[test]
fn without_pid_1_not_every_process_is_visible() {
    let mut world = World::new();
    world.fake.remove(1);
    world.fake.fd(20, 0, "pipe:[500]", "00");
    assert_eq!(world.stdin(0), Some((StdinState::Unknown, None)));
}

#[test]
fn a_reused_holder_pid_does_not_hold() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    assert_eq!(world.stdin(0), Some((StdinState::Held, Some(10))));
    // pid 10 is another process, which has the pipe's *read* end in the same descriptor.
    world.fake.put(&Fake { pid: 10, start_ticks: 2000, ..Fake::default() });
    world.fake.fd(10, 4, "pipe:[500]", "00");
    let later: Vec<_> = (1..30).filter_map(|second| world.stdin(second)).collect();
    assert_eq!(later, [(StdinState::Unheld, None)]);
}

#[test]
fn memory_is_said_when_it_moved() {
    let mut world = World::new();
    let memory = |round: Round| {
        round.observations.into_iter().find_map(|observation| match observation.body {
            Body::Tick(tick) => Some(tick.memory.unwrap().available_kib),
            _ => None,
        })
    };
    assert_eq!(memory(world.at(0)), Some(4_000_000));
    world.fake.meminfo(8_000_000, 3_000_000);
    for second in 1..10 {
        assert_eq!(memory(world.at(second)), None, "at most every 10 s");
    }
    assert_eq!(memory(world.at(10)), Some(3_000_000));
    world.fake.meminfo(8_000_000, 3_000_000 - 90_000 + 1);
    assert_eq!(memory(world.at(75)), None, "less than 3 %");
    world.fake.meminfo(8_000_000, 3_000_000 - 90_000);
    assert_eq!(memory(world.at(80)), None, "it is read every 10 s");
    assert_eq!(memory(world.at(85)), Some(2_910_000));
    world.fake.meminfo(8_000_000, 2_700_000);
    assert_eq!(memory(world.at(100)), None, "7 % are written once a minute");
    assert_eq!(memory(world.at(145)), Some(2_700_000));
    let worker = world.id(20);
    world.sampler.untrack(worker);
    world.fake.meminfo(8_000_000, 1);
    assert_eq!(memory(world.at(300)), None, "nobody to blame");
}

#[test]
fn the_costly_reads_are_spread() {
    let mut world = World::new();
    for pid in 20..50 {
        world.worker(pid);
        fs::write(
            world.fake.dir(pid).join("smaps_rollup"),
            "0-1 [rollup]\nRss: 9 kB\nPss: 77 kB\n",
        )
        .unwrap();
    }
    let mut read: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut most = 0;
    for second in 0..100 {
        let samples = world.samples(second);
        let with_pss: Vec<_> = samples.iter().filter(|s| s.pss_kib == Some(77)).collect();
        most = most.max(with_pss.len());
        for sample in with_pss {
            read.entry(sample.pid).or_default().push(second);
        }
    }
    assert_eq!(read.len(), 30, "each is read");
    assert!(most <= 2, "{most} in one round");
    for (pid, seconds) in read {
        assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{pid}: {seconds:?}");
    }
}

mod budget;
mod channels;
mod quiet;
mod real;
mod work;
