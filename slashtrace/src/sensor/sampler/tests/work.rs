//! What a worker and those below it do.

use super::*;

/// What rounds say of the worker's tree, every 2 s: CPU time and reads.
fn work(
    world: &mut World,
    seconds: std::ops::Range<u64>,
    mut each: impl FnMut(&mut World, u64),
) -> Vec<(u64, Option<u64>, Option<u64>)> {
    let mut found = Vec::new();
    for second in seconds.step_by(2) {
        each(world, second);
        for sample in world.samples(second) {
            if sample.pid == 20 && (sample.cpu_ms, sample.syscr_below) != (None, None) {
                found.push((second, sample.cpu_ms, sample.syscr_below));
            }
        }
    }
    found
}

/// A worker 20 that has a child 30.
fn with_child() -> World {
    let mut world = World::new();
    world.fake.put(&Fake { pid: 30, ppid: 20, syscr: Some(7), ..Fake::default() });
    let (worker, child) = (world.id(20), world.id(30));
    world.sampler.track(child, Role::Descendant, Some(worker));
    world.fake.ran(20, 50_000_000);
    world.fake.ran(30, 10_000_000);
    world
}

const MS: u64 = 1_000_000;

#[test]
fn upkeep_is_no_work() {
    let mut world = with_child();
    assert_eq!(work(&mut world, 0..2, |_, _| ()), [(0, Some(60), Some(7))]);
    // 5 ms a second are not more than 1/200.
    let idle = work(&mut world, 2..200, |world, second| {
        world.fake.ran(20, (50 + second * 5 / 2) * MS);
        world.fake.ran(30, (10 + second * 5 / 2) * MS);
    });
    assert_eq!(idle, []);
}

#[test]
fn a_busy_tree_is_written_every_4_s_and_once_after() {
    let mut world = with_child();
    work(&mut world, 0..2, |_, _| ());
    let busy = work(&mut world, 2..40, |world, second| {
        world.fake.ran(30, (10 + second.min(12) * 100) * MS);
    });
    let written: Vec<_> = busy.iter().map(|&(at, cpu_ms, _)| (at, cpu_ms.unwrap())).collect();
    assert_eq!(written, [(4, 460), (8, 860), (12, 1260)]);
}

#[test]
fn short_work_after_long_idleness_is_written() {
    let mut world = with_child();
    let found = work(&mut world, 0..7_100, |world, second| {
        if second == 7_000 {
            world.fake.ran(30, 21 * MS);
        }
    });
    let at: Vec<_> = found.iter().map(|&(at, cpu_ms, _)| (at, cpu_ms)).collect();
    assert_eq!(at, [(0, Some(60)), (7_000, Some(71))]);
}

#[test]
fn what_has_ended_stays_counted() {
    let mut world = with_child();
    work(&mut world, 0..2, |_, _| ());
    let child = world.id(30);
    world.fake.ran(30, 500 * MS);
    world.sampler.exited(child);
    world.fake.remove(30);
    let later = work(&mut world, 2..20, |_, _| ());
    assert_eq!(later, [(4, Some(550), None)]);
    // Another one begins at nothing.
    world.fake.put(&Fake { pid: 31, ppid: 20, syscr: Some(3), ..Fake::default() });
    world.fake.ran(31, 100 * MS);
    let (worker, other) = (world.id(20), world.id(31));
    world.sampler.track(other, Role::Descendant, Some(worker));
    assert_eq!(work(&mut world, 20..30, |_, _| ()), [(20, Some(650), Some(10))]);
}

#[test]
fn a_pid_that_was_reused_did_not_work_for_the_worker() {
    let mut world = with_child();
    work(&mut world, 0..2, |_, _| ());
    world.fake.put(&Fake { pid: 30, start_ticks: 9_999, syscr: Some(999), ..Fake::default() });
    world.fake.ran(30, 9_000 * MS);
    assert_eq!(work(&mut world, 2..20, |_, _| ()), []);
    let child = world.id(30);
    world.sampler.exited(child);
    assert_eq!(work(&mut world, 20..40, |_, _| ()), []);
}

#[test]
fn a_worker_that_waits_for_its_stdin_is_said_once_to() {
    let mut world = World::new();
    world.fake.ran(20, 1);
    let syscall = world.fake.dir(20).join("syscall");
    fs::write(&syscall, "running").unwrap();
    let mut waits = |seconds: std::ops::Range<u64>| -> Vec<u64> {
        seconds.filter(|&second| world.samples(second).iter().any(|sample| sample.waits)).collect()
    };
    assert!(waits(0..20).is_empty());
    fs::write(&syscall, format!("{} 0x0 0x7f00 0x400", libc::SYS_read)).unwrap();
    let [at] = waits(20..200)[..] else { panic!("once") };
    assert!(at <= 34, "{at}");
}

#[test]
fn where_it_may_not_be_seen_what_a_worker_waits_for_it_is_asked_once_a_minute() {
    let mut world = World::new();
    world.fake.ran(20, 1);
    let syscall = world.fake.dir(20).join("syscall");
    fs::create_dir(&syscall).unwrap();
    world.at(0);
    world.at(1);
    world.at(2);
    fs::remove_dir(&syscall).unwrap();
    fs::write(&syscall, format!("{} 0x0 0x7f00 0x400", libc::SYS_read)).unwrap();
    let at = (3..100).find(|&second| world.samples(second).iter().any(|sample| sample.waits));
    assert!(at.is_some_and(|at| at >= 60), "{at:?}");
}
