use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use super::{Worker, live::Pulse};
use crate::{
    host::proc::{IdentityBook, ProcFs},
    model::{Identity, StdinPeer, StdinState},
};

/// Least time between two searches of every process while one of them may bring a new answer: few
/// follow, since two misses are an answer.
const SEARCH_URGENT_NS: u64 = 1_000_000_000;
/// Least time between two searches otherwise.
const SEARCH_EVERY_NS: u64 = 10_000_000_000;
/// It grows to this while searches bring nothing new.
const SEARCH_SLOWEST_NS: u64 = 60_000_000_000;
/// /proc is not read in one moment: a descriptor can pass from a process that is yet to be searched
/// to one that was. So many searches in a row must find no holder.
const MISSES_TO_BELIEVE: u32 = 2;
/// Holders of idle workers that are asked again in one round, if there are so many: each costs some
/// microseconds, and a gateway that does anything may have closed any of its descriptors.
const ASKED_A_ROUND: usize = 64;
/// Of more workers than that this part is asked again in a round.
const ASKED_PART: usize = 5;

/// Finds who can still write to the workers' stdin.
///
/// The last holder is asked again in each round if it has run since, which costs a few reads; where
/// that fails its gateway, and then every process. One search of every process serves all workers
/// that need it. Of hundreds of workers that do not run themselves, some have their turn in each
/// round.
#[derive(Debug, Default)]
pub(super) struct StdinWatch {
    last_search_ns: Option<u64>,
    search_gap_ns: u64,
    /// The last worker whose holder was asked again because it was its turn.
    last_asked: Option<Identity>,
}

/// What is known of one worker's stdin.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) gateway: Option<Identity>,
    /// Inode of the pipe that its stdin is.
    pipe: Option<u64>,
    peer: Peer,
    /// CPU time of its holder when that was asked.
    holder_cpu_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Peer {
    /// Nobody was found yet and nobody was looked for: new, or its holder has let go.
    #[default]
    Wanted,
    /// Held by this process, in this descriptor.
    Held(Identity, u32),
    /// So many searches found nobody.
    Missing(u32),
    /// A search found nobody, but could not look everywhere.
    Hidden,
    /// Not a pipe, or it cannot be seen what it is: nobody can be looked for.
    NoPipe,
}

impl Peer {
    /// What can be said of it; `None` while that is being found out.
    fn answer(self) -> Option<StdinPeer> {
        let unknown = StdinPeer { kind: None, state: StdinState::Unknown, holder: None };
        match self {
            Self::Held(holder, _) => {
                Some(StdinPeer { kind: None, state: StdinState::Held, holder: Some(holder) })
            }
            Self::Missing(misses) if misses >= MISSES_TO_BELIEVE => {
                Some(StdinPeer { kind: None, state: StdinState::Unheld, holder: None })
            }
            Self::Hidden | Self::NoPipe => Some(unknown),
            Self::Wanted | Self::Missing(_) => None,
        }
    }

    fn wants_search(self) -> bool {
        matches!(self, Self::Wanted | Self::Missing(_) | Self::Hidden)
    }

    /// Whether the next search may bring an answer, rather than another answer.
    fn is_undecided(self) -> bool {
        self.wants_search() && self.answer().is_none()
    }
}

impl StdinWatch {
    /// One round: afterwards each worker knows what can be said of its stdin.
    pub(super) fn round(
        &mut self,
        proc: &ProcFs,
        book: &mut IdentityBook,
        workers: &mut BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Identity>,
        now_ns: u64,
    ) {
        let mut holders = Holders::new(proc);
        let mut wanted = false;
        for (worker, it) in workers.iter_mut() {
            match it.live.pulse {
                Pulse::Look => it.stdin.look_again(*worker, &mut holders),
                Pulse::Gone => continue,
                Pulse::Ran | Pulse::Quiet => it.stdin.is_holder_gone(&mut holders),
            }
            wanted |= it.stdin.peer.wants_search();
        }
        wanted |= self.ask_holders(workers, &mut holders);
        if wanted {
            ask_gateways(workers, &mut holders);
            self.search_everywhere(proc, book, workers, descendants, now_ns);
        }
    }

    /// Asks some of the holders that ran again. Whether one let go.
    fn ask_holders(
        &mut self,
        workers: &mut BTreeMap<Identity, Box<Worker>>,
        holders: &mut Holders<'_>,
    ) -> bool {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let mut left = ASKED_A_ROUND.max(workers.len().div_ceil(ASKED_PART));
        let mut let_go = false;
        let last = self.last_asked;
        let behind = last.map_or(Unbounded, Excluded);
        for range in [(behind, Unbounded), (Unbounded, last.map_or(Excluded(NOBODY), Included))] {
            for (worker, it) in workers.range_mut(range) {
                if it.live.pulse == Pulse::Look || it.live.pulse == Pulse::Gone {
                    continue;
                }
                if left == 0 {
                    return let_go;
                }
                if it.stdin.ask_holder(holders) {
                    self.last_asked = Some(*worker);
                    left -= 1;
                    let_go |= it.stdin.peer == Peer::Wanted;
                }
            }
        }
        let_go
    }

    fn search_everywhere(
        &mut self,
        proc: &ProcFs,
        book: &mut IdentityBook,
        workers: &mut BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Identity>,
        now_ns: u64,
    ) {
        let mut wanted = HashSet::new();
        let mut urgent = false;
        for watched in there(workers).map(|(_, watched)| watched) {
            if watched.peer.wants_search() {
                wanted.extend(watched.pipe);
                urgent |= watched.peer.is_undecided();
            }
        }
        let gap = if urgent { SEARCH_URGENT_NS } else { self.search_gap_ns };
        let due = self.last_search_ns.is_none_or(|last| now_ns >= last.saturating_add(gap));
        if wanted.is_empty() || !due {
            return;
        }
        let Ok(pids) = proc.pids() else {
            return;
        };
        let mut found = proc.write_ends(&pids, &wanted);
        // With hidepid other users' processes are not even listed; pid 1 is never ours then.
        found.blind |= !matches!(proc.stat(1), Ok(Some(_)));

        let ranks = Ranks::of(workers, descendants, &found.holders);
        let mut news = false;
        for (worker, watched) in there(workers) {
            if !watched.peer.wants_search() {
                continue;
            }
            let Some(pipe) = watched.pipe else {
                continue;
            };
            let before = watched.peer;
            let ends = found.holders.get(&pipe).map_or(&[][..], Vec::as_slice);
            let holder = ends
                .iter()
                .filter(|(pid, _)| *pid != worker.pid)
                .min_by_key(|(pid, _)| ranks.get(*pid, worker, watched.gateway))
                .and_then(|&(pid, fd)| {
                    let stat = proc.stat(pid).ok()??;
                    Some(Peer::Held(book.proc(pid, stat.start_ns), fd))
                });
            watched.holder_cpu_ns = None;
            watched.peer = match (holder, before) {
                (Some(held), _) => held,
                (None, _) if found.blind => Peer::Hidden,
                (None, Peer::Missing(misses)) => Peer::Missing((misses + 1).min(MISSES_TO_BELIEVE)),
                (None, _) => Peer::Missing(1),
            };
            news |= watched.peer != before;
        }
        self.search_gap_ns = if news {
            SEARCH_EVERY_NS
        } else {
            (self.search_gap_ns * 2).clamp(SEARCH_EVERY_NS, SEARCH_SLOWEST_NS)
        };
        self.last_search_ns = Some(now_ns);
    }
}

/// Before every process.
const NOBODY: Identity = Identity { pid: 0, start_ns: 0 };

/// The workers that are there, with what is known of their stdin.
fn there(
    workers: &mut BTreeMap<Identity, Box<Worker>>,
) -> impl Iterator<Item = (Identity, &mut Watched)> {
    let there = workers.iter_mut().filter(|(_, it)| it.live.pulse != Pulse::Gone);
    there.map(|(worker, it)| (*worker, &mut it.stdin))
}

/// Searches the gateways of workers whose holder is newly wanted: nearly always it is them.
fn ask_gateways(workers: &mut BTreeMap<Identity, Box<Worker>>, holders: &mut Holders<'_>) {
    let mut wanted: BTreeMap<Identity, HashSet<u64>> = BTreeMap::new();
    for (_, watched) in there(workers) {
        if watched.peer == Peer::Wanted
            && let (Some(gateway), Some(pipe)) = (watched.gateway, watched.pipe)
        {
            wanted.entry(gateway).or_default().insert(pipe);
        }
    }
    let mut found: BTreeMap<Identity, HashMap<u64, Vec<(u32, u32)>>> = BTreeMap::new();
    for (gateway, pipes) in wanted {
        // Before the search: what it closes meanwhile shows in the next round.
        let _ = holders.cpu_ns(gateway);
        let ends = holders.proc.write_ends(&[gateway.pid], &pipes).holders;
        if !ends.is_empty() && is_still(holders.proc, gateway) {
            found.insert(gateway, ends);
        }
    }
    if found.is_empty() {
        return;
    }
    for (worker, watched) in there(workers) {
        if watched.peer == Peer::Wanted
            && let (Some(gateway), Some(pipe)) = (watched.gateway, watched.pipe)
            && worker != gateway
            && let Some(ends) = found.get(&gateway).and_then(|ends| ends.get(&pipe))
        {
            watched.peer = Peer::Held(gateway, ends[0].1);
            watched.holder_cpu_ns = holders.cpu_ns(gateway);
        }
    }
}

impl Watched {
    /// What can be said of it; `None` while that is being found out.
    pub(super) fn answer(&self) -> Option<StdinPeer> {
        self.peer.answer()
    }

    /// Looks whether stdin is what it was and its holder still holds it.
    fn look_again(&mut self, worker: Identity, holders: &mut Holders<'_>) {
        let pipe = holders.proc.fd_pipe(worker.pid, 0).ok().flatten();
        if pipe != self.pipe {
            self.pipe = pipe;
            self.peer = Peer::Wanted;
        }
        match (self.pipe, self.peer) {
            (None, _) => self.peer = Peer::NoPipe,
            (Some(_), Peer::NoPipe) => self.peer = Peer::Wanted,
            (Some(_), Peer::Held(..)) => {
                // Whether the holder ran or not: another process may share its descriptors.
                self.holder_cpu_ns = None;
                self.ask_holder(holders);
            }
            _ => {}
        }
    }

    /// A holder that is gone holds nothing.
    fn is_holder_gone(&mut self, holders: &mut Holders<'_>) {
        let Peer::Held(holder, _) = self.peer else { return };
        let cpu_ns = holders.cpu_ns(holder);
        let quiet = cpu_ns.is_some() && cpu_ns == self.holder_cpu_ns;
        if !quiet && !holders.is_there(holder) {
            self.peer = Peer::Wanted;
        }
    }

    /// Looks whether its holder still holds it, unless that has not run since it was asked last.
    /// Whether it was asked.
    fn ask_holder(&mut self, holders: &mut Holders<'_>) -> bool {
        let (Some(pipe), Peer::Held(holder, fd)) = (self.pipe, self.peer) else { return false };
        let cpu_ns = holders.cpu_ns(holder);
        if cpu_ns.is_some() && cpu_ns == self.holder_cpu_ns {
            return false;
        }
        let proc = holders.proc;
        let holds = matches!(proc.fd_pipe(holder.pid, fd), Ok(Some(at)) if at == pipe)
            && proc.fd_writes(holder.pid, fd).unwrap_or(false)
            && holders.is_there(holder);
        self.holder_cpu_ns = cpu_ns;
        if !holds {
            self.peer = Peer::Wanted;
        }
        true
    }
}

/// Which of several holders is named: one that the worker does not keep alive itself is what
/// matters.
struct Ranks {
    /// Holders that are workers, or come from one.
    below: HashMap<u32, Below>,
}

#[derive(Clone, Copy)]
enum Below {
    Worker,
    /// It descends from this worker.
    Descendant(Identity),
}

impl Ranks {
    fn of(
        workers: &BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Identity>,
        holders: &HashMap<u64, Vec<(u32, u32)>>,
    ) -> Self {
        let mut below = HashMap::new();
        for (pid, _) in holders.values().flatten() {
            let all =
                Identity { pid: *pid, start_ns: 0 }..=Identity { pid: *pid, start_ns: u64::MAX };
            let descends = descendants.range(all.clone()).next_back();
            if let Some((_, worker)) = descends {
                below.insert(*pid, Below::Descendant(*worker));
            } else if workers.range(all).any(|(_, it)| it.live.pulse != Pulse::Gone) {
                below.insert(*pid, Below::Worker);
            }
        }
        Self { below }
    }

    fn get(&self, pid: u32, worker: Identity, gateway: Option<Identity>) -> u8 {
        if gateway.is_some_and(|gateway| gateway.pid == pid) {
            return 0;
        }
        match self.below.get(&pid) {
            Some(Below::Descendant(of)) if *of == worker => 3,
            Some(_) => 2,
            None => 1,
        }
    }
}

/// Holders, each looked at once a round.
struct Holders<'a> {
    proc: &'a ProcFs,
    cpu_ns: HashMap<Identity, io::Result<Option<u64>>>,
    there: HashMap<Identity, bool>,
}

impl<'a> Holders<'a> {
    fn new(proc: &'a ProcFs) -> Self {
        Self { proc, cpu_ns: HashMap::new(), there: HashMap::new() }
    }

    /// CPU time of whoever has the pid, where that can be known.
    fn cpu_ns(&mut self, identity: Identity) -> Option<u64> {
        let proc = self.proc;
        let asked = self.cpu_ns.entry(identity).or_insert_with(|| proc.cpu_ns(identity.pid));
        asked.as_ref().ok().copied().flatten()
    }

    /// Whether the pid is still the process it was.
    fn is_there(&mut self, identity: Identity) -> bool {
        let proc = self.proc;
        *self.there.entry(identity).or_insert_with(|| is_still(proc, identity))
    }
}

fn is_still(proc: &ProcFs, identity: Identity) -> bool {
    matches!(proc.stat(identity.pid), Ok(Some(stat)) if proc.is_same(identity, &stat))
}
