use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    host::proc::{IdentityBook, ProcFs, ProcStat},
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

/// Finds who can still write to the workers' stdin.
///
/// The last holder is asked again in each round, which costs a few reads; where that fails its
/// gateway, and then every process. One search of every process serves all workers that need it.
#[derive(Debug, Default)]
pub(super) struct StdinWatch {
    workers: BTreeMap<Identity, Watched>,
    last_search_ns: Option<u64>,
    search_gap_ns: u64,
}

#[derive(Debug, Default)]
struct Watched {
    gateway: Option<Identity>,
    /// Inode of the pipe that its stdin is.
    pipe: Option<u64>,
    peer: Peer,
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
        let unknown = StdinPeer { state: StdinState::Unknown, holder: None };
        match self {
            Self::Held(holder, _) => {
                Some(StdinPeer { state: StdinState::Held, holder: Some(holder) })
            }
            Self::Missing(misses) if misses >= MISSES_TO_BELIEVE => {
                Some(StdinPeer { state: StdinState::Unheld, holder: None })
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
    pub(super) fn track(&mut self, worker: Identity, gateway: Option<Identity>) {
        self.workers.entry(worker).or_default().gateway = gateway;
    }

    pub(super) fn untrack(&mut self, worker: Identity) {
        self.workers.remove(&worker);
    }

    /// One round: what is known of the stdin of each worker in `live`.
    pub(super) fn round(
        &mut self,
        proc: &ProcFs,
        book: &mut IdentityBook,
        live: &BTreeMap<Identity, ProcStat>,
        descendants: &HashMap<Identity, Identity>,
        now_ns: u64,
    ) -> HashMap<Identity, StdinPeer> {
        let mut same = SameProcess { proc, checked: HashMap::new() };
        for (worker, watched) in &mut self.workers {
            if live.contains_key(worker) {
                watched.look_again(*worker, &mut same);
            }
        }
        self.ask_gateways(live, &mut same);
        let ranks = Ranks { workers: live, descendants };
        self.search_everywhere(proc, book, &ranks, now_ns);
        self.workers
            .iter()
            .filter(|(worker, _)| live.contains_key(worker))
            .filter_map(|(worker, watched)| Some((*worker, watched.peer.answer()?)))
            .collect()
    }

    /// Searches the gateways of workers whose holder is newly wanted: nearly always it is them.
    fn ask_gateways(&mut self, live: &BTreeMap<Identity, ProcStat>, same: &mut SameProcess<'_>) {
        let mut wanted: BTreeMap<Identity, HashSet<u64>> = BTreeMap::new();
        for (worker, watched) in &self.workers {
            if watched.peer == Peer::Wanted
                && live.contains_key(worker)
                && let (Some(gateway), Some(pipe)) = (watched.gateway, watched.pipe)
            {
                wanted.entry(gateway).or_default().insert(pipe);
            }
        }
        for (gateway, pipes) in wanted {
            let found = same.proc.write_ends(&[gateway.pid], &pipes);
            if found.holders.is_empty() || !same.is(gateway) {
                continue;
            }
            for (worker, watched) in &mut self.workers {
                if watched.peer == Peer::Wanted
                    && watched.gateway == Some(gateway)
                    && *worker != gateway
                    && let Some(ends) = watched.pipe.and_then(|pipe| found.holders.get(&pipe))
                {
                    watched.peer = Peer::Held(gateway, ends[0].1);
                }
            }
        }
    }

    fn search_everywhere(
        &mut self,
        proc: &ProcFs,
        book: &mut IdentityBook,
        ranks: &Ranks<'_>,
        now_ns: u64,
    ) {
        let mut wanted = HashSet::new();
        let mut urgent = false;
        for (worker, watched) in &self.workers {
            if watched.peer.wants_search() && ranks.workers.contains_key(worker) {
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

        let mut news = false;
        for (worker, watched) in &mut self.workers {
            if !watched.peer.wants_search() || !ranks.workers.contains_key(worker) {
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
                .min_by_key(|(pid, _)| ranks.of(*pid, *worker, watched.gateway))
                .and_then(|&(pid, fd)| {
                    let stat = proc.stat(pid).ok()??;
                    Some(Peer::Held(book.proc(pid, stat.start_ns), fd))
                });
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

impl Watched {
    /// Looks whether stdin is what it was and its holder still holds it.
    fn look_again(&mut self, worker: Identity, same: &mut SameProcess<'_>) {
        let pipe = same.proc.fd_pipe(worker.pid, 0).ok().flatten();
        if pipe != self.pipe {
            self.pipe = pipe;
            self.peer = Peer::Wanted;
        }
        match (self.pipe, self.peer) {
            (None, _) => self.peer = Peer::NoPipe,
            (Some(_), Peer::NoPipe) => self.peer = Peer::Wanted,
            (Some(pipe), Peer::Held(holder, fd)) => {
                let holds = matches!(same.proc.fd_pipe(holder.pid, fd), Ok(Some(at)) if at == pipe)
                    && same.proc.fd_writes(holder.pid, fd).unwrap_or(false)
                    && same.is(holder);
                if !holds {
                    self.peer = Peer::Wanted;
                }
            }
            _ => {}
        }
    }
}

/// Which of several holders is named: one that the worker does not keep alive itself is what
/// matters.
struct Ranks<'a> {
    workers: &'a BTreeMap<Identity, ProcStat>,
    descendants: &'a HashMap<Identity, Identity>,
}

impl Ranks<'_> {
    fn of(&self, pid: u32, worker: Identity, gateway: Option<Identity>) -> u8 {
        if gateway.is_some_and(|gateway| gateway.pid == pid) {
            return 0;
        }
        match self.descendants.iter().find(|(descendant, _)| descendant.pid == pid) {
            Some((_, of)) if *of == worker => 3,
            Some(_) => 2,
            None if self.workers.keys().any(|worker| worker.pid == pid) => 2,
            None => 1,
        }
    }
}

/// Whether a pid is still the process it was; asked once a round for each.
struct SameProcess<'a> {
    proc: &'a ProcFs,
    checked: HashMap<Identity, bool>,
}

impl SameProcess<'_> {
    fn is(&mut self, identity: Identity) -> bool {
        let proc = self.proc;
        *self.checked.entry(identity).or_insert_with(
            || matches!(proc.stat(identity.pid), Ok(Some(stat)) if proc.is_same(identity, &stat)),
        )
    }
}
