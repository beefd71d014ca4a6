//! Who has not run is not read.

use super::*;

/// Puts all of a worker but its clock out of reach, so that whoever reads it is found out: a worker
/// that cannot be read as the process it was has vanished.
fn hide(world: &World, pid: u32) {
    for name in ["stat", "io"] {
        let path = world.fake.dir(pid).join(name);
        fs::rename(&path, path.with_extension("hidden")).unwrap();
    }
}

fn show(world: &World, pid: u32) {
    for name in ["stat", "io"] {
        let path = world.fake.dir(pid).join(name);
        fs::rename(path.with_extension("hidden"), path).unwrap();
    }
}

#[test]
fn a_worker_that_has_not_run_is_not_read() {
    let mut world = World::new();
    world.fake.ran(20, 1);
    assert_eq!(world.samples(0).len(), 1);
    world.at(2);
    hide(&world, 20);
    for second in 3..60 {
        assert_eq!(world.at(second), Round::default());
    }
    assert_eq!(world.at(62).vanished.len(), 1, "it is looked at once a minute");
    assert_eq!(world.at(64).vanished.len(), 1, "and said to be gone until somebody listens");
    show(&world, 20);
    assert_eq!(world.at(66), Round::default());
}

#[test]
fn each_rise_of_a_worker_that_runs_is_written_in_its_round() {
    let mut world = World::new();
    world.fake.ran(20, 1);
    assert_eq!(world.samples(0).len(), 1);
    for second in 1..40 {
        world.fake.ran(20, 1 + second);
        let syscr = 100 + second / 2;
        let fake = Fake { pid: 20, ppid: 10, syscr: Some(syscr), cmdline: WORKER, ..FAKE };
        world.fake.put(&fake);
        let samples = world.samples(second);
        let written: Vec<_> = samples.iter().map(|sample| sample.syscr.unwrap()).collect();
        assert_eq!(written, if second % 2 == 0 { vec![syscr] } else { vec![] }, "{second}");
        assert!(samples.iter().all(|sample| sample.rss_kib.is_some() && sample.threads.is_some()));
    }
}

#[test]
fn a_busy_worker_that_is_stopped_is_seen_stopped() {
    let mut world = World::new();
    for second in 0..20 {
        world.fake.ran(20, 1 + second);
        world.at(second);
    }
    world.fake.put(&Fake { pid: 20, ppid: 10, state: 'T', cmdline: WORKER, ..FAKE });
    world.fake.ran(20, 100);
    let states: Vec<_> = (20..23).flat_map(|second| world.samples(second)).collect();
    assert_eq!(states.iter().map(|sample| sample.state).collect::<String>(), "T");
}

#[test]
fn a_worker_of_which_no_clock_tells_is_gone() {
    let mut world = World::new();
    let worker = world.id(20);
    world.fake.ran(20, 1);
    world.at(0);
    fs::write(world.fake.dir(20).join("cpu_ns"), "none").unwrap();
    assert_eq!(world.at(1).vanished, [worker]);
    world.sampler.exited(worker);
    for second in 2..100 {
        assert_eq!(world.at(second), Round::default());
    }
    assert_eq!(world.sampler.exited.len(), 0);
}

#[test]
fn a_holder_is_asked_again_when_it_ran() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    world.fake.ran(20, 1);
    world.fake.ran(10, 1);
    assert_eq!(world.stdin(0), Some((StdinState::Held, Some(10))));
    assert_eq!(world.stdin(1), None);
    world.fake.close(10, 4);
    for second in 2..60 {
        assert_eq!(world.stdin(second), None, "it cannot have closed it");
    }
    world.fake.ran(10, 2);
    let unheld = (62..70).find_map(|second| world.stdin(second));
    assert_eq!(unheld, Some((StdinState::Unheld, None)));
}

#[test]
fn a_holder_that_shares_its_descriptors_is_asked_once_a_minute() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    world.fake.ran(20, 1);
    world.fake.ran(10, 1);
    world.at(0);
    world.fake.close(10, 4);
    let unheld: Vec<_> = (1..70).filter_map(|second| world.stdin(second)).collect();
    assert_eq!(unheld, [(StdinState::Unheld, None)]);
}

#[test]
fn of_many_idle_workers_each_has_its_turn() {
    let mut world = World::new();
    let count = 400;
    for pid in 1000..1000 + count {
        world.worker(pid);
        world.fake.fd(pid, 0, &format!("pipe:[{pid}]"), "00");
        world.fake.fd(10, pid, &format!("pipe:[{pid}]"), "01");
        world.fake.ran(pid, 1);
    }
    world.fake.ran(10, 1);
    world.at(0);
    world.at(1);
    for pid in 1000..1000 + count {
        world.fake.close(10, pid);
    }
    // It runs all the time, and so may have closed any.
    let mut told = HashMap::new();
    for second in 2..12 {
        world.fake.ran(10, second);
        for sample in world.samples(second) {
            *told.entry((sample.pid, sample.stdin.map(|stdin| stdin.state))).or_insert(0) += 1;
        }
    }
    assert!(told.values().all(|&times| times == 1), "{told:?}");
    let unheld = |pid: u32| told.contains_key(&(pid, Some(StdinState::Unheld)));
    let missing = (1000..1000 + count).filter(|&pid| !unheld(pid)).count();
    assert_eq!(missing, 0);
}

#[test]
fn a_plain_worker_takes_one_allocation() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(20, 1, "pipe:[501]", "01");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    world.fake.fd(10, 5, "pipe:[501]", "00");
    let worker = world.id(20);
    let sample = world.samples(0)[0].clone();
    assert!(sample.stdin.is_some() && sample.output.is_some() && sample.rss_kib.is_some());
    world.at(1);
    let it = &world.sampler.workers[&worker];
    assert!(!it.live.is_boxed() && !it.work.is_boxed() && it.sockets.is_none());
}
