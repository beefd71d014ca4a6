use std::collections::{BTreeMap, VecDeque};

use crate::model::{Identity, Maybe, Process};

/// An identity that nobody asked for in so many rounds is dropped if its process is gone: all that
/// there was to say of it has been said.
const UNUSED_ROUNDS: usize = 30;
/// Identities that are looked at in one round, so that a round does not grow with what has ended.
const SWEPT_A_ROUND: usize = 2_048;

/// Gives each process one identity within a recording.
///
/// The kernel programs know start times to the nanosecond, /proc rounds them down to a clock tick
/// (10 ms). Whichever came first names the process; the other one is recognised as the same by pid
/// and tick. Two different precise times within one tick are two processes: a pid can come back
/// that soon.
///
/// Bounded: the identities that were asked for longest ago are dropped when it is full. A process
/// that is dropped while it lives may get another identity, so the bound is to be above the number
/// of tracked processes, each of which is asked for in every round.
#[derive(Debug)]
pub struct IdentityBook {
    tick_ns: u64,
    max: usize,
    /// More than one of a pid only if that came back.
    known: BTreeMap<Identity, Known>,
    uses: u64,
    /// How many uses there were at the last rounds, oldest first.
    rounds: VecDeque<u64>,
    /// The last identity that a round looked at.
    swept: Option<Identity>,
}

#[derive(Debug)]
struct Known {
    /// The kernel's start time, once it was told.
    precise: Maybe,
    used: u64,
}

impl IdentityBook {
    /// Number of identities a book holds unless it is told otherwise.
    pub const DEFAULT_MAX: usize = 65_536;

    /// An empty book for clock ticks of `tick_ns` nanoseconds.
    pub fn new(tick_ns: u64) -> Self {
        Self::with_max(tick_ns, Self::DEFAULT_MAX)
    }

    /// As [`Self::new`], for at most `max` identities.
    pub fn with_max(tick_ns: u64, max: usize) -> Self {
        Self {
            tick_ns: tick_ns.max(1),
            max: max.max(1),
            known: BTreeMap::new(),
            uses: 0,
            rounds: VecDeque::new(),
            swept: None,
        }
    }

    /// The identity of the process that the kernel says started at `start_ns`.
    pub fn kernel(&mut self, pid: u32, start_ns: u64) -> Identity {
        let mut unnamed = None;
        let mut exact = None;
        for (identity, known) in self.of_tick(pid, start_ns) {
            match known.precise.get() {
                Some(precise) if precise == start_ns => exact = Some(*identity),
                None => unnamed = Some(*identity),
                Some(_) => {}
            }
        }
        if let Some(identity) = exact.or(unnamed) {
            self.touch(identity, Some(start_ns));
            return identity;
        }
        // A rounded identity may have taken this very value for another process of the tick.
        let mut identity = Identity { pid, start_ns };
        while self.known.contains_key(&identity) {
            identity.start_ns += 1;
        }
        self.add(identity, Some(start_ns))
    }

    /// The identity of the process that /proc says started at `ticks_ns`, a whole tick.
    pub fn proc(&mut self, pid: u32, ticks_ns: u64) -> Identity {
        // Of two in one tick the later one is there now: the pid was free in between.
        let latest = self.of_tick(pid, ticks_ns).max_by_key(|(_, known)| known.precise.get());
        match latest.map(|(identity, _)| *identity) {
            Some(identity) => {
                self.touch(identity, None);
                identity
            }
            None => self.add(Identity { pid, start_ns: ticks_ns }, None),
        }
    }

    /// Notes that an identity is in use, so that it is not dropped.
    pub fn keep(&mut self, identity: Identity) {
        self.touch(identity, None);
    }

    /// Gives a process that was read from /proc the identity that it has in this recording.
    pub fn name(&mut self, process: &mut Process) {
        process.start_ns = self.proc(process.pid, process.start_ns).start_ns;
    }

    /// Drops an identity: the process ended and nothing will be said of it any more.
    pub fn forget(&mut self, identity: Identity) {
        self.known.remove(&identity);
    }

    /// To be called in each round of the sampler: drops identities that were not asked for in a
    /// minute of rounds every two seconds and whose pid is `gone`. A bounded number is looked at.
    pub fn sweep(&mut self, gone: impl Fn(u32) -> bool) {
        self.rounds.push_back(self.uses);
        if self.rounds.len() <= UNUSED_ROUNDS {
            return;
        }
        let Some(old) = self.rounds.pop_front() else { return };
        let from = self.swept.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut drop = Vec::new();
        let mut last = None;
        let range = self.known.range((from, std::ops::Bound::Unbounded));
        for (at, (identity, known)) in range.enumerate() {
            if at >= SWEPT_A_ROUND {
                break;
            }
            last = Some(*identity);
            if known.used <= old && gone(identity.pid) {
                drop.push(*identity);
            }
        }
        // Behind the last one it begins anew.
        self.swept = last;
        for identity in drop {
            self.known.remove(&identity);
        }
    }

    /// Number of identities in it.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Those of a pid that began in the tick of `start_ns`.
    fn of_tick(&self, pid: u32, start_ns: u64) -> impl Iterator<Item = (&Identity, &Known)> {
        let begin = start_ns - start_ns % self.tick_ns;
        let end = begin.saturating_add(self.tick_ns - 1);
        self.known.range(Identity { pid, start_ns: begin }..=Identity { pid, start_ns: end })
    }

    fn touch(&mut self, identity: Identity, precise: Option<u64>) {
        self.uses += 1;
        if let Some(known) = self.known.get_mut(&identity) {
            known.used = self.uses;
            known.precise = precise.map_or(known.precise, Maybe::from);
        }
    }

    fn add(&mut self, identity: Identity, precise: Option<u64>) -> Identity {
        if self.known.len() >= self.max {
            self.make_room();
        }
        self.uses += 1;
        self.known.insert(identity, Known { precise: precise.into(), used: self.uses });
        identity
    }

    /// Drops an eighth at once, so that a full book costs each new identity no search.
    fn make_room(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|known| known.used).collect();
        let last = (uses.len() - 1).min(self.max / 8);
        let (_, oldest, _) = uses.select_nth_unstable(last);
        let oldest = *oldest;
        self.known.retain(|_, known| known.used > oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 10_000_000;

    #[test]
    fn the_first_to_name_a_process_wins() {
        let mut book = IdentityBook::new(TICK);
        let precise = book.kernel(5, 7 * TICK + 123);
        assert_eq!(precise.start_ns, 7 * TICK + 123);
        assert_eq!(book.proc(5, 7 * TICK), precise);

        let rounded = book.proc(6, 7 * TICK);
        assert_eq!(book.kernel(6, 7 * TICK + 123), rounded);
        assert_eq!(book.kernel(6, 7 * TICK + 123), rounded);
        assert_eq!(book.proc(6, 7 * TICK), rounded);
    }

    #[test]
    fn a_pid_that_comes_back_within_a_tick_is_another_process() {
        let mut book = IdentityBook::new(TICK);
        let first = book.proc(5, TICK);
        assert_eq!(book.kernel(5, TICK + 1), first);
        let second = book.kernel(5, TICK + 2);
        assert_ne!(second, first);
        assert_eq!(book.proc(5, TICK), second, "/proc shows the one that is there now");
        assert_eq!(book.kernel(5, TICK + 1), first);
        assert_ne!(book.kernel(5, TICK), first, "a rounded identity is not shared");
    }

    #[test]
    fn forgets_and_stays_within_its_bound() {
        let mut book = IdentityBook::with_max(TICK, 3);
        let first = book.kernel(1, TICK + 1);
        for pid in 2..100 {
            assert_eq!(book.proc(1, TICK), first, "in use, so kept");
            book.proc(pid, TICK);
            assert!(book.len() <= 3);
        }
        book.forget(first);
        assert_eq!(book.proc(1, TICK).start_ns, TICK);
        book.forget(Identity { pid: 77, start_ns: 0 });
    }

    #[test]
    fn what_is_gone_and_unused_leaves_what_lives_stays() {
        let mut book = IdentityBook::new(TICK);
        let lives = book.kernel(1, TICK + 1);
        let used = book.kernel(2, TICK + 1);
        let many = SWEPT_A_ROUND * 2;
        for at in 0..many {
            book.kernel(10 + at as u32, TICK + 1);
        }
        let gone = |pid: u32| pid != 1;
        for _ in 0..UNUSED_ROUNDS {
            book.keep(used);
            book.sweep(gone);
        }
        assert_eq!(book.len(), many + 2, "not unused for long enough");
        for _ in 0..3 {
            book.keep(used);
            book.sweep(gone);
        }
        assert_eq!(book.known.keys().copied().collect::<Vec<_>>(), [lives, used]);
        for _ in 0..UNUSED_ROUNDS + 3 {
            book.sweep(gone);
        }
        assert_eq!(book.known.keys().copied().collect::<Vec<_>>(), [lives]);
    }

    /// A process: pid, start tick, ns within the tick.
    fn process() -> impl Strategy<Value = (u32, u64, u64)> {
        (1..5_u32, 0..5_u64, 0..4_u64)
    }

    proptest! {
        /// One process has one identity, and two have two, whichever source names them first. The
        /// precise sources say everything; /proc is asked for processes that are alone in a tick.
        #[test]
        fn one_process_one_identity(
            asked in proptest::collection::vec((process(), any::<bool>()), 1..200),
        ) {
            let mut book = IdentityBook::new(TICK);
            let mut told: HashMap<(u32, u64, u64), Identity> = HashMap::new();
            // The process of a (pid, tick) that came first, and whether the kernel has named it:
            // until then /proc's name is waiting for it.
            let mut first: HashMap<(u32, u64), (u64, bool)> = HashMap::new();
            for ((pid, tick, ns), by_kernel) in asked {
                let (first_ns, named) = first.entry((pid, tick)).or_insert((ns, false));
                let ns = if by_kernel && *named { ns } else { *first_ns };
                *named |= by_kernel;
                let alone = told.keys().all(|&(p, t, n)| (p, t) != (pid, tick) || n == ns);
                if !by_kernel && !alone {
                    continue;
                }
                let identity = if by_kernel {
                    book.kernel(pid, tick * TICK + ns)
                } else {
                    book.proc(pid, tick * TICK)
                };
                prop_assert_eq!(identity.pid, pid);
                prop_assert_eq!(identity.start_ns / TICK, tick);
                prop_assert_eq!(*told.entry((pid, tick, ns)).or_insert(identity), identity);
            }
            let distinct: std::collections::HashSet<_> = told.values().collect();
            prop_assert_eq!(distinct.len(), told.len());
        }

        /// Never more than its bound, whatever is asked.
        #[test]
        fn bounded(asked in proptest::collection::vec((process(), any::<bool>()), 1..300)) {
            let mut book = IdentityBook::with_max(TICK, 7);
            for ((pid, tick, ns), by_kernel) in asked {
                let start = tick * TICK + ns;
                let _ = if by_kernel { book.kernel(pid, start) } else { book.proc(pid, start) };
                prop_assert!(book.len() <= 7);
            }
        }
    }
}
