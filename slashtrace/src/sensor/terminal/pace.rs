use std::collections::{BTreeMap, BTreeSet};

use super::{
    Place,
    look::{self, Users},
};
use crate::{host::proc::ProcFs, model::Identity};

/// Looks for the spawns of one parent are this far apart, ns: in a storm one serves many, and the
/// next round completes it.
const APART_NS: u64 = 100_000_000;
/// Descriptors of one gateway that are looked at in one round; one with more has its turn in every
/// other round, and so on.
const DESCRIPTORS_A_ROUND: usize = 512;
/// A walk over all processes may take this part of the time that passes, as CPU time.
const WALK_PART: u64 = 500;
/// The same where a worker was born on a terminal of which nothing is known yet.
const URGENT_PART: u64 = 20;

/// Whose spawns were looked at lately.
#[derive(Debug, Default)]
pub(super) struct Spawns {
    looked: BTreeMap<Identity, Looked>,
}

/// A look at the spawn of a parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Looked {
    /// When, ns of the boot clock.
    pub(super) at: u64,
    /// How many terminals had been opened by then.
    pub(super) opened: u64,
    /// The mount namespace of who was spawned.
    pub(super) namespace: Option<u64>,
}

impl Spawns {
    /// The look at a sibling that was a moment ago.
    pub(super) fn lately(&self, parent: Identity, now: u64) -> Option<Looked> {
        self.looked.get(&parent).copied().filter(|looked| now < looked.at + APART_NS)
    }

    /// They are looked at now.
    pub(super) fn look(&mut self, parent: Identity, looked: Looked) {
        self.looked.insert(parent, looked);
    }

    /// Forgets what is too long ago to matter.
    pub(super) fn round(&mut self, now: u64) {
        self.looked.retain(|_, looked| now < looked.at + APART_NS);
    }
}

/// Which processes are still there. One whose CPU time stands still is the one that it was.
#[derive(Debug, Default)]
pub(super) struct Lives {
    cpu_ns: BTreeMap<Identity, u64>,
}

impl Lives {
    /// Whether a process lives.
    pub(super) fn of(&mut self, proc: &ProcFs, id: Identity) -> bool {
        let cpu_ns = proc.cpu_ns(id.pid).ok().flatten();
        if cpu_ns.is_some() && self.cpu_ns.get(&id).copied() == cpu_ns {
            return true;
        }
        let stat = proc.stat(id.pid).ok().flatten();
        let lives = stat.is_some_and(|stat| proc.is_same(id, &stat) && !stat.ended());
        match cpu_ns.filter(|_| lives) {
            Some(cpu_ns) => self.cpu_ns.insert(id, cpu_ns),
            None => self.cpu_ns.remove(&id),
        };
        lives
    }
}

/// The masters that gateways hold. One that has not run since it was looked at holds what it held.
#[derive(Debug, Default)]
pub(super) struct Masters {
    of: BTreeMap<u32, Held>,
}

#[derive(Debug, Default)]
struct Held {
    cpu_ns: Option<u64>,
    places: BTreeSet<Place>,
    /// Rounds that it is left alone, for it has many descriptors.
    rest: usize,
}

impl Masters {
    /// What a gateway holds by now. In a round that may be what it held a few rounds ago.
    pub(super) fn of(
        &mut self,
        proc: &ProcFs,
        pid: u32,
        watched: &BTreeSet<u64>,
        round: bool,
    ) -> &BTreeSet<Place> {
        let cpu_ns = proc.cpu_ns(pid).ok().flatten();
        let held = self.of.entry(pid).or_default();
        let quiet = cpu_ns.is_some() && cpu_ns == held.cpu_ns;
        if round && held.rest > 0 {
            held.rest -= 1;
        } else if !quiet {
            match look::masters(proc, pid, watched) {
                Some((places, descriptors)) => {
                    *held = Held { cpu_ns, places, rest: descriptors / DESCRIPTORS_A_ROUND };
                }
                // What it held before is what is known; it is looked at again.
                None => held.cpu_ns = None,
            }
        }
        &held.places
    }

    /// What a gateway was last seen to hold.
    pub(super) fn last(&self, pid: u32) -> Option<&BTreeSet<Place>> {
        self.of.get(&pid).map(|held| &held.places)
    }

    /// A terminal was closed.
    pub(super) fn closed(&mut self, place: Place) {
        for held in self.of.values_mut() {
            held.places.remove(&place);
        }
    }

    /// Everybody is looked at again: other instances are watched than before.
    pub(super) fn clear(&mut self) {
        self.of.clear();
    }

    /// Forgets those that are no gateways any more.
    pub(super) fn retain(&mut self, is_gateway: impl Fn(u32) -> bool) {
        self.of.retain(|pid, _| is_gateway(*pid));
    }
}

/// Who uses which terminal, from the last walk over all processes.
#[derive(Debug, Default)]
pub(super) struct Walks {
    pub(super) users: BTreeMap<Place, Users>,
    ended_ns: u64,
    took_ns: u64,
}

impl Walks {
    /// Whether another walk may be made: the more processes there are, the less often.
    pub(super) fn is_due(&self, urgent: bool, now: u64) -> bool {
        let part = if urgent { URGENT_PART } else { WALK_PART };
        now >= self.ended_ns.saturating_add(self.took_ns.saturating_mul(part))
    }

    /// A walk was made.
    pub(super) fn walked(&mut self, users: BTreeMap<Place, Users>, began_ns: u64, ended_ns: u64) {
        let took_ns = ended_ns.saturating_sub(began_ns);
        *self = Self { users, ended_ns, took_ns };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::proc::fake::{FAKE, Fake, FakeProc};

    const MS: u64 = 1_000_000;

    #[test]
    fn a_storm_of_spawns_shares_its_looks() {
        let mut spawns = Spawns::default();
        let parent = |pid| Identity { pid, start_ns: 1 };
        let mut looks = 0;
        for at in (0..1_000).map(|at| at * MS) {
            // Two parents that take turns.
            let parent = parent((at / MS % 2) as u32);
            if spawns.lately(parent, at).is_none() {
                spawns.look(parent, Looked { at, opened: 0, namespace: None });
                looks += 1;
            }
        }
        assert_eq!(looks, 20);
        spawns.round(2_000 * MS);
        assert_eq!(spawns.looked.len(), 0);
    }

    #[test]
    fn a_gateway_that_has_not_run_is_not_looked_through() {
        let fake = FakeProc::new();
        fake.put(&FAKE);
        let watched = BTreeSet::new();
        let mut masters = Masters::default();
        let looked = |masters: &mut Masters, round| {
            masters.of(&fake.proc(), 10, &watched, round);
            masters.of[&10].rest
        };
        fake.ran(10, 1);
        assert_eq!(looked(&mut masters, true), 0);
        for fd in 0..DESCRIPTORS_A_ROUND as u32 {
            fake.fd(10, fd, "/dev/null", "02");
        }
        assert_eq!(looked(&mut masters, true), 0, "it cannot have opened them");
        fake.ran(10, 2);
        assert_eq!(looked(&mut masters, true), 1);
        fake.put(&Fake { ..FAKE });
        fake.ran(10, 3);
        assert_eq!(looked(&mut masters, true), 0, "it rests");
        assert_eq!(looked(&mut masters, false), 1, "a spawn cannot wait");
    }

    #[test]
    fn who_has_not_run_still_lives() {
        let fake = FakeProc::new();
        fake.put(&FAKE);
        let start_ns = fake.proc().stat(10).unwrap().unwrap().start_ns;
        let id = Identity { pid: 10, start_ns };
        let mut all = Lives::default();
        let mut lives = |cpu_ns| {
            fake.ran(10, cpu_ns);
            all.of(&fake.proc(), id)
        };
        assert!(lives(1));
        fake.put(&Fake { start_ticks: 2000, ..FAKE });
        assert!(lives(1), "it is not read");
        assert!(!lives(2), "its pid is another's");
        assert!(!lives(2));
        assert_eq!(all.cpu_ns.len(), 0);
    }

    #[test]
    fn walks_take_a_small_part_of_the_time() {
        let mut walks = Walks::default();
        assert!(walks.is_due(false, 1));
        walks.walked(BTreeMap::new(), 100 * MS, 110 * MS);
        assert!(!walks.is_due(true, 309 * MS));
        assert!(walks.is_due(true, 310 * MS));
        assert!(!walks.is_due(false, 5_109 * MS));
        assert!(walks.is_due(false, 5_110 * MS));
    }
}
