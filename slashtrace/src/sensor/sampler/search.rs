use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use super::{
    Descendant, Worker,
    kin::{Kin, Kinship},
};
use crate::{
    host::{
        clock::thread_cpu_ns,
        proc::{Concern, Holder, INITIAL_PID_NAMESPACE, ProcFs, Target, Unseen},
    },
    model::Identity,
};

/// How long a round waits for its search: nearly every one is over by then, and one that takes longer
/// is taken up by a later round.
const PATIENCE: Duration =
    if cfg!(test) { Duration::from_mins(1) } else { Duration::from_millis(50) };

/// The ends that are searched for, and whose they are.
pub(super) type Owners = HashMap<Target, Vec<Owner>>;

/// A worker whose end is searched for, and who has the other one.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) worker: Identity,
    /// Who gave it its stdin and stdout, and who forked it, as far as that is known.
    pub(super) speaker: Option<Identity>,
    pub(super) gateway: Option<Identity>,
    /// Another user, of whom a process was seen with the end.
    pub(super) lender: Option<u32>,
    pub(super) outside: Option<Holder>,
    pub(super) fellow: Option<Holder>,
    /// Nobody outside was found, but processes that may have it were not read.
    pub(super) concealed: bool,
}

/// One search of every process, with all that it takes.
#[derive(Debug)]
pub(super) struct Search {
    proc: ProcFs,
    kin: Kin,
    owners: Owners,
}

/// What it found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) owners: Owners,
    /// Whether somebody may be missed that may not be looked at.
    pub(super) blind: bool,
    /// CPU time that it took, ns.
    pub(super) took_ns: u64,
}

impl Search {
    pub(super) fn new(
        proc: &ProcFs,
        workers: &BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Descendant>,
        owners: Owners,
    ) -> Self {
        Self { proc: proc.clone(), kin: Kin::new(proc, workers, descendants), owners }
    }

    /// Searches every process, those first which are no part of a worker's tree: of whom one that
    /// matters has the other end nobody else needs to be found. `None` if there was no search.
    fn run(mut self) -> Option<Found> {
        let began = thread_cpu_ns();
        let Self { proc, kin, owners } = &mut self;
        let mut pids = proc.pids().ok()?;
        let all = owners.values().flatten();
        let speakers: HashSet<u32> = all.filter_map(|owner| Some(owner.asked()?.pid)).collect();
        pids.sort_by_key(|pid| match pid {
            pid if speakers.contains(pid) => 0,
            pid if !kin.is_tracked(*pid) => 1,
            _ => 2,
        });
        let mut wanted = owners.keys().copied().collect();
        let unseen = proc.search_holders(&pids, &mut wanted, &mut |target, holder| {
            let mut still_wanted = false;
            for owner in owners.get_mut(&target).into_iter().flatten() {
                if owner.outside.is_none() {
                    match kin.of(holder.pid, owner.worker, owner.asked()) {
                        Kinship::Own => {}
                        Kinship::Fellow => owner.fellow = owner.fellow.or(Some(holder)),
                        Kinship::Outside => owner.outside = Some(holder),
                    }
                }
                still_wanted |= owner.outside.is_none();
            }
            still_wanted
        });
        self.look_for_concealed(&unseen);
        let mut blind = unseen.blind;
        // With hidepid other users' processes are not even listed; pid 1 is never ours then.
        blind |= !matches!(self.proc.stat(1), Ok(Some(_)));
        // A process outside of this pid namespace (of `docker exec`, say) may hold it, unseen.
        let here = std::fs::read_link(self.proc.root().join("self/ns/pid"));
        blind |= here.is_ok_and(|here| here.to_str() != Some(INITIAL_PID_NAMESPACE));
        let took_ns = thread_cpu_ns().saturating_sub(began);
        Some(Found { owners: self.owners, blind, took_ns })
    }

    fn look_for_concealed(&mut self, unseen: &Unseen) {
        let mut concern = Concern::new(&self.proc, &unseen.unread);
        for owner in self.owners.values_mut().flatten().filter(|owner| owner.outside.is_none()) {
            let gateways = [owner.speaker, owner.gateway].into_iter().flatten().map(|id| id.pid);
            owner.concealed = concern.about(owner.worker.pid, gateways, owner.lender).is_some();
        }
    }
}

impl Owner {
    fn asked(&self) -> Option<Identity> {
        self.speaker.or(self.gateway)
    }
}

/// Has one search at a time done on a thread of its own: whatever others' processes are like, the
/// rounds go on, and so does all that waits for them.
#[derive(Debug, Default)]
pub(super) struct Searcher {
    under_way: Option<Receiver<Option<Found>>>,
}

impl Searcher {
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a search. Where no thread can be had there is none.
    pub(super) fn start(&mut self, search: Search) {
        let (done, found) = sync_channel(1);
        // It is not waited for at the end of the program, which ends it.
        let run = move || drop(done.send(search.run()));
        let thread = thread::Builder::new().name("search".to_owned()).spawn(run);
        self.under_way = thread.is_ok().then_some(found);
    }

    /// What the search under way found, if it is over by now or in a moment.
    pub(super) fn take(&mut self, just_started: bool) -> Option<Found> {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        let patience = if just_started || cfg!(test) { PATIENCE } else { Duration::ZERO };
        let found = match self.under_way.as_ref()?.recv_timeout(patience) {
            Err(Timeout) => return None,
            found => found.ok().flatten(),
        };
        self.under_way = None;
        found
    }
}
