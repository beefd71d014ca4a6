//! Users whose processes take too long to read.

use super::*;
use crate::host::proc::Allowance;

/// The user who is over the budget. The worker 20, its gateway and pid 1 are those of B.
const A: u32 = 1001;
/// More reads than the budget of this test has.
const MANY: u32 = 600;

/// Worker 20 of gateway 10, both of B's, and worker 30 of gateway 31, of A's. Of neither stdin there is
/// a holder. A may have 300 things read, and B as many.
fn world() -> World {
    let mut world = World::new();
    let allowance = Allowance { burst_ns: 300_000, rate_ns: 0 };
    world.sampler = Sampler::new(world.fake.proc().with_counted(allowance));
    world.worker(20);
    for (pid, ppid) in [(31, 1), (30, 31), (40, 1)] {
        world.fake.put(&Fake { pid, ppid, cmdline: WORKER, ..Fake::default() });
        world.fake.owned_by(pid, A);
    }
    let (worker, gateway) = (world.id(30), world.id(31));
    world.sampler.track(worker, Role::Worker, Some(gateway));
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(30, 0, "pipe:[600]", "00");
    world
}

impl World {
    fn opens_many(&self, pid: u32) {
        for fd in 10..10 + MANY {
            self.fake.fd(pid, fd, "/dev/null", "02");
        }
    }

    /// The last that these rounds say of a stdin, and whether its holders were not read.
    fn last(&mut self, pid: u32, seconds: std::ops::Range<u64>) -> Option<(StdinState, bool)> {
        let rounds = seconds.filter_map(|second| {
            let samples = self.samples(second);
            let sample = samples.into_iter().rfind(|sample| sample.pid == pid)?;
            Some((sample.stdin?.state, sample.over_budget))
        });
        rounds.last()
    }
}

#[test]
fn without_many_descriptors_both_are_judged() {
    assert_eq!(world().last(30, 0..4), Some((StdinState::Unheld, false)));
    assert_eq!(world().last(20, 0..4), Some((StdinState::Unheld, false)));
}

#[test]
fn only_the_workers_of_who_is_over_the_budget_are_not_judged() {
    let mut one = world();
    one.opens_many(40);
    assert_eq!(one.last(30, 0..4), Some((StdinState::Unknown, true)));
    let mut other = world();
    other.opens_many(40);
    assert_eq!(other.last(20, 0..4), Some((StdinState::Unheld, false)));
}

#[test]
fn a_holder_that_is_found_holds_whatever_was_not_read() {
    let mut world = world();
    world.opens_many(40);
    assert_eq!(world.last(30, 0..4), Some((StdinState::Unknown, true)));
    world.fake.put(&Fake { pid: 50, ..Fake::default() });
    world.fake.fd(50, 4, "pipe:[600]", "01");
    assert_eq!(world.last(30, 4..40), Some((StdinState::Held, false)));
}

#[test]
fn who_was_once_seen_with_the_end_has_to_be_read() {
    let mut world = world();
    let third = world.worker(21);
    world.fake.fd(21, 0, "pipe:[700]", "00");
    world.fake.put(&Fake { pid: 41, ..Fake::default() });
    world.fake.owned_by(41, A);
    world.fake.fd(41, 4, "pipe:[500]", "01");
    assert_eq!(world.last(20, 0..4), Some((StdinState::Held, false)));
    world.sampler.untrack(third);
    world.opens_many(40);
    world.fake.close(41, 4);
    // 21 is looked at anew, and that costs A its budget.
    world.worker(21);
    assert_eq!(world.last(20, 4..30), Some((StdinState::Unknown, true)));
}

#[test]
fn root_s_processes_have_to_be_read_for_everybody() {
    let mut world = world();
    for pid in [60, 61, 62, 63, 64, 65] {
        world.fake.put(&Fake { pid, ..Fake::default() });
        world.fake.owned_by(pid, 0);
        world.opens_many(pid);
    }
    assert_eq!(world.last(20, 0..4), Some((StdinState::Unknown, true)));
}

#[test]
fn sockets_of_who_is_over_the_budget_are_not_counted() {
    let mut world = world();
    let allowance = Allowance { burst_ns: 300_000, rate_ns: 0 };
    world.sampler = Sampler::new(world.fake.proc().with_counted(allowance)).with_sockets();
    world.worker(20);
    let (worker, gateway) = (world.id(30), world.id(31));
    world.sampler.track(worker, Role::Worker, Some(gateway));
    world.opens_many(30);
    let samples = world.samples(0);
    let complete = |pid: u32| {
        let sample = samples.iter().find(|sample| sample.pid == pid)?;
        Some(sample.sockets?.complete)
    };
    assert_eq!((complete(20), complete(30)), (Some(true), Some(false)));
}
