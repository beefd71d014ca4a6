use std::collections::{BTreeMap, HashMap};

use crate::model::{Identity, Process};

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
    /// By pid; more than one only if the pid came back. Newest last.
    known: HashMap<u32, Vec<Known>>,
    /// Identities by when they were last asked for.
    by_use: BTreeMap<u64, Identity>,
    uses: u64,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// The kernel's start time, once it was told.
    precise: Option<u64>,
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
            known: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }

    /// The identity of the process that the kernel says started at `start_ns`.
    pub fn kernel(&mut self, pid: u32, start_ns: u64) -> Identity {
        let tick = start_ns / self.tick_ns;
        let known = self.known.entry(pid).or_default();
        let same_tick = |known: &&mut Known| known.identity.start_ns / self.tick_ns == tick;
        let at = {
            let mut unnamed = None;
            let mut exact = None;
            for (at, known) in known.iter_mut().enumerate().filter(|(_, k)| same_tick(k)) {
                match known.precise {
                    Some(precise) if precise == start_ns => exact = Some(at),
                    None => unnamed = Some(at),
                    Some(_) => {}
                }
            }
            exact.or(unnamed)
        };
        if let Some(at) = at {
            known[at].precise = Some(start_ns);
            return self.touch(pid, at);
        }
        // A rounded identity may have taken this very value for another process of the tick.
        let mut identity = Identity { pid, start_ns };
        while known.iter().any(|known| known.identity == identity) {
            identity.start_ns += 1;
        }
        self.add(identity, Some(start_ns))
    }

    /// The identity of the process that /proc says started at `ticks_ns`, a whole tick.
    pub fn proc(&mut self, pid: u32, ticks_ns: u64) -> Identity {
        let tick = ticks_ns / self.tick_ns;
        let known = self.known.get(&pid).map_or(&[][..], Vec::as_slice);
        // Of two in one tick the later one is there now: the pid was free in between.
        let latest = known
            .iter()
            .enumerate()
            .filter(|(_, known)| known.identity.start_ns / self.tick_ns == tick)
            .max_by_key(|(at, known)| (known.precise, *at));
        match latest {
            Some((at, _)) => self.touch(pid, at),
            None => self.add(Identity { pid, start_ns: ticks_ns }, None),
        }
    }

    /// Gives a process that was read from /proc the identity that it has in this recording.
    pub fn name(&mut self, process: &mut Process) {
        process.start_ns = self.proc(process.pid, process.start_ns).start_ns;
    }

    /// Drops an identity: the process ended and nothing will be said of it any more.
    pub fn forget(&mut self, identity: Identity) {
        let Some(known) = self.known.get_mut(&identity.pid) else {
            return;
        };
        if let Some(at) = known.iter().position(|known| known.identity == identity) {
            self.by_use.remove(&known[at].used);
            known.remove(at);
        }
        if known.is_empty() {
            self.known.remove(&identity.pid);
        }
    }

    /// Number of identities in it.
    pub fn len(&self) -> usize {
        self.by_use.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.by_use.is_empty()
    }

    fn touch(&mut self, pid: u32, at: usize) -> Identity {
        let known = &mut self.known.get_mut(&pid).expect("the caller found it")[at];
        self.by_use.remove(&known.used);
        self.uses += 1;
        known.used = self.uses;
        self.by_use.insert(known.used, known.identity);
        known.identity
    }

    fn add(&mut self, identity: Identity, precise: Option<u64>) -> Identity {
        if self.by_use.len() >= self.max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            self.forget(*oldest);
        }
        self.uses += 1;
        let known = Known { identity, precise, used: self.uses };
        self.known.entry(identity.pid).or_default().push(known);
        self.by_use.insert(self.uses, identity);
        identity
    }
}

#[cfg(test)]
mod tests {
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
                book.by_use.values().for_each(|known| assert!(book.known.contains_key(&known.pid)));
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
                prop_assert_eq!(book.known.values().map(Vec::len).sum::<usize>(), book.len());
            }
        }
    }
}
