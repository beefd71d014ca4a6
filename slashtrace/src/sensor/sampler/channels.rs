use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Descendant, Worker,
    holders::{Holders, is_still},
    live::Pulse,
    search::{Found, Owner, Owners, Search, Searcher},
    side::{MISSES_TO_BELIEVE, Peer, Side, Which},
};
use crate::{
    host::proc::{Holder, IdentityBook, ProcFs, Target},
    host::unix::UnixEnds,
    model::{EndKind, Identity, Maybe, MaybeId, OutputPeer, StdinPeer},
};

/// Least time between two searches of every process while one of them may bring a new answer: few
/// follow, since two misses are an answer.
const SEARCH_URGENT_NS: u64 = 1_000_000_000;
/// Least time between two searches otherwise.
const SEARCH_EVERY_NS: u64 = 10_000_000_000;
/// It grows to this while searches bring nothing new.
const SEARCH_SLOWEST_NS: u64 = 60_000_000_000;
/// The next search is so many times as far away as the last one took: it has a fifth of a CPU at most.
const SEARCH_PART: u64 = 4;
/// Holders of idle workers that are asked again in one round, if there are so many: each costs some
/// microseconds, and a gateway that does anything may have closed any of its descriptors.
const ASKED_A_ROUND: usize = 64;
/// Of more workers than that this part is asked again in a round.
const ASKED_PART: usize = 5;
/// The descriptors of a worker that runs all the time are looked at again so often.
const LOOK_BUSY_NS: u64 = 8_000_000_000;
/// Launchers above a worker that are looked at at most.
const LAUNCHERS_MAX: usize = 8;

/// Finds who can still write to the workers' stdin, and who reads what they write.
///
/// The last holder is asked again in each round if it has run since, which costs a few reads; where
/// that fails its gateway, and then every process. One search of every process serves all workers
/// that need it, on a thread of its own; what it found is taken up by the round that began it, or by
/// a later one if it takes long. Of hundreds of workers that do not run themselves, some have their turn in each
/// round. Who reads a worker's output is searched for once its stdin is not held by somebody any
/// more: until then nothing depends on it.
#[derive(Debug, Default)]
pub(super) struct ChannelWatch {
    pub(super) unix: UnixEnds,
    search: Searcher,
    last_search_ns: Option<u64>,
    search_gap_ns: u64,
    /// CPU time of the last search.
    search_took_ns: u64,
    /// Workers of which a process of another user was seen with an end: that user.
    lenders: BTreeMap<Identity, u32>,
    /// The last worker whose holder was asked again because it was its turn.
    last_asked: Option<Identity>,
}

/// What is known of one worker's stdin and stdout.
#[derive(Debug)]
pub(super) struct Watched {
    looked: bool,
    look_due_ns: u64,
    /// Who forked it.
    pub(super) gateway: MaybeId,
    /// Who gave it its stdin and stdout: its gateway, unless that only hands on its own.
    speaker: MaybeId,
    stdin: Side,
    output: Side,
    /// Whether its output is that of its gateway too; `None` while they were not compared.
    is_log: Option<bool>,
    /// Its gateway was asked for the output's other end.
    asked_output: bool,
    gateway_gone: bool,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            looked: false,
            look_due_ns: 0,
            gateway: MaybeId::default(),
            speaker: MaybeId::default(),
            stdin: Side::new(Which::Stdin),
            output: Side::new(Which::Output),
            is_log: None,
            asked_output: false,
            gateway_gone: false,
        }
    }
}

/// What a round works with.
pub(super) struct World<'a> {
    pub(super) proc: &'a ProcFs,
    pub(super) book: &'a mut IdentityBook,
    pub(super) workers: &'a mut BTreeMap<Identity, Box<Worker>>,
    pub(super) descendants: &'a BTreeMap<Identity, Descendant>,
}

impl ChannelWatch {
    /// One round: afterwards each worker knows what can be said of its stdin and stdout.
    pub(super) fn round(&mut self, world: &mut World<'_>, now_ns: u64) {
        self.unix.begin_round();
        self.take_up(world, false, now_ns);
        let mut holders = Holders::new(world.proc);
        let mut wanted = false;
        for (worker, it) in world.workers.iter_mut() {
            let channels = &mut it.channels;
            match it.live.pulse {
                Pulse::Gone => continue,
                // Too early, or its turn.
                _ if !channels.looked && now_ns < it.fresh_until_ns => continue,
                _ if it.live.pulse == Pulse::Look
                    || !channels.looked
                    || (it.live.pulse == Pulse::Ran && now_ns >= channels.look_due_ns) =>
                {
                    channels.look_due_ns = now_ns + LOOK_BUSY_NS;
                    channels.look_again(*worker, &mut holders, &mut self.unix, world.book);
                }
                _ => channels.is_holder_gone(&mut holders),
            }
            wanted |= channels.wants_search();
        }
        wanted |= self.ask_holders(world.workers, &mut holders);
        if wanted {
            let all: Vec<Identity> = there(world.workers).map(|(worker, _)| worker).collect();
            ask_gateways(world.workers, &all, &mut holders);
            for it in world.workers.values_mut() {
                it.channels.refresh_output(&mut holders, &mut self.unix);
            }
            self.search_everywhere(world, now_ns);
        }
    }

    /// Looks at the channels of new workers, as far as their gateways have the other ends: whether
    /// these were ever held shows only at the start if they are closed soon after.
    pub(super) fn first_look(&mut self, world: &mut World<'_>, fresh: &[Identity]) {
        self.unix.begin_round();
        let mut holders = Holders::new(world.proc);
        for worker in fresh {
            if let Some(it) = world.workers.get_mut(worker) {
                it.channels.look_again(*worker, &mut holders, &mut self.unix, world.book);
            }
        }
        ask_gateways(world.workers, fresh, &mut holders);
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
                if it.channels.ask_holders(holders, &mut self.unix) {
                    self.last_asked = Some(*worker);
                    left -= 1;
                    let_go |= it.channels.wants_search();
                }
            }
        }
        let_go
    }

    /// Has every process searched, if that is due, and takes up what was found.
    fn search_everywhere(&mut self, world: &mut World<'_>, now_ns: u64) {
        if self.search.is_under_way() {
            return;
        }
        let mut owners = Owners::new();
        let mut urgent = false;
        for (worker, channels) in there(world.workers) {
            let (speaker, gateway) = (channels.speaker.get(), channels.gateway.get());
            let lender = self.lenders.get(&worker).copied();
            for side in channels.searched() {
                if let Some(target) = side.target() {
                    let owner = Owner {
                        worker,
                        speaker,
                        gateway,
                        lender,
                        outside: None,
                        fellow: None,
                        concealed: false,
                    };
                    owners.entry(target).or_default().push(owner);
                    urgent |= side.peer.is_undecided();
                }
            }
        }
        let gap = if urgent { SEARCH_URGENT_NS } else { self.search_gap_ns };
        let gap = gap.max(self.search_took_ns.saturating_mul(SEARCH_PART));
        let due = self.last_search_ns.is_none_or(|last| now_ns >= last.saturating_add(gap));
        if owners.is_empty() || !due {
            return;
        }
        self.search.start(Search::new(world.proc, world.workers, world.descendants, owners));
        self.take_up(world, true, now_ns);
    }

    /// Takes up what a search found. What it says of an end that is another one by now, or somebody
    /// was found to hold meanwhile, is not asked any more.
    fn take_up(&mut self, world: &mut World<'_>, just_started: bool, now_ns: u64) {
        let Some(Found { owners, blind, took_ns }) = self.search.take(just_started) else { return };
        let mut news = false;
        let (proc, book) = (world.proc, &mut *world.book);
        let uid = |pid: u32| Some(proc.ids(pid).ok()??.uid);
        for (worker, channels) in there(world.workers) {
            for side in channels.searched() {
                let owned = side.target().and_then(|target| owners.get(&target));
                let Some(owner) = owned.and_then(|all| all.iter().find(|it| it.worker == worker))
                else {
                    continue;
                };
                let mut name = |holder: Holder| {
                    let stat = proc.stat(holder.pid).ok()??;
                    Some(book.proc(holder.pid, stat.start_ns))
                };
                let outside = owner.outside.and_then(|at| Some(Peer::Held(name(at)?.into(), at)));
                if let Some(by) = owner.outside.and_then(|at| uid(at.pid))
                    && Some(by) != uid(worker.pid)
                {
                    self.lenders.insert(worker, by);
                }
                let before = side.peer;
                side.holder_cpu_ns = Maybe::NONE;
                side.peer = match (outside, before) {
                    (Some(held), _) => held,
                    // Who held it is gone by now: others were not looked at.
                    (None, _) if owner.outside.is_some() => Peer::Wanted,
                    (None, _) if owner.concealed => Peer::Unread,
                    (None, _) if blind => Peer::Hidden,
                    (None, Peer::Missing(misses, _)) => {
                        let misses = (misses + 1).min(MISSES_TO_BELIEVE);
                        Peer::Missing(misses, owner.fellow.and_then(name).into())
                    }
                    (None, _) => Peer::Missing(1, owner.fellow.and_then(name).into()),
                };
                news |= side.peer != before;
            }
        }
        self.lenders.retain(|worker, _| world.workers.contains_key(worker));
        self.search_gap_ns = if news {
            SEARCH_EVERY_NS
        } else {
            (self.search_gap_ns * 2).clamp(SEARCH_EVERY_NS, SEARCH_SLOWEST_NS)
        };
        self.search_took_ns = took_ns;
        self.last_search_ns = Some(now_ns);
    }
}

/// Before every process.
const NOBODY: Identity = Identity { pid: 0, start_ns: 0 };

/// The workers that are there, with what is known of their channels.
fn there(
    workers: &mut BTreeMap<Identity, Box<Worker>>,
) -> impl Iterator<Item = (Identity, &mut Watched)> {
    let there = workers.iter_mut().filter(|(_, it)| it.live.pulse != Pulse::Gone);
    there.map(|(worker, it)| (*worker, &mut it.channels))
}

/// Searches the gateways of workers whose holder is newly wanted: nearly always it is them.
fn ask_gateways(
    workers: &mut BTreeMap<Identity, Box<Worker>>,
    of: &[Identity],
    holders: &mut Holders<'_>,
) {
    let mut wanted: BTreeMap<Identity, HashSet<Target>> = BTreeMap::new();
    for &worker in of {
        let Some(channels) = workers.get(&worker).map(|it| &it.channels) else { continue };
        if let Some(speaker) = channels.speaker.get().filter(|speaker| *speaker != worker) {
            let sides = [&channels.stdin, &channels.output];
            let of_gateway = sides.into_iter().filter(|side| side.peer == Peer::Wanted);
            let targets: Vec<Target> = of_gateway.filter_map(Side::target).collect();
            let asked = channels.stdin.peer == Peer::Wanted || !channels.asked_output;
            if asked && !targets.is_empty() {
                wanted.entry(speaker).or_default().extend(targets);
            }
        }
    }
    let mut found: HashMap<(Identity, Target), Holder> = HashMap::new();
    for (gateway, mut targets) in wanted {
        // Before the search: what it closes meanwhile shows in the next round.
        let _ = holders.cpu_ns(gateway);
        let mut ends = Vec::new();
        holders.proc.search_holders(&[gateway.pid], &mut targets, &mut |target, holder| {
            ends.push((target, holder));
            false
        });
        if !ends.is_empty() && is_still(holders.proc, gateway) {
            found.extend(ends.into_iter().map(|(target, holder)| ((gateway, target), holder)));
        }
    }
    for &worker in of {
        let Some(channels) = workers.get_mut(&worker).map(|it| &mut it.channels) else { continue };
        let Some(speaker) = channels.speaker.get().filter(|speaker| *speaker != worker) else {
            continue;
        };
        channels.asked_output = true;
        for side in [&mut channels.stdin, &mut channels.output] {
            if side.peer == Peer::Wanted
                && let Some(target) = side.target()
                && let Some(&holder) = found.get(&(speaker, target))
            {
                side.peer = Peer::Held(speaker.into(), holder);
                side.holder_cpu_ns = holders.cpu_ns(speaker).ok().flatten().into();
            }
        }
    }
}

impl Watched {
    /// What can be said of its stdin; `None` while that is being found out.
    pub(super) fn stdin(&self) -> Option<StdinPeer> {
        self.stdin.stdin().filter(|_| self.looked)
    }

    /// What can be said of its stdout; `None` while that is being found out.
    pub(super) fn output(&self) -> Option<OutputPeer> {
        self.output.output(self.is_log == Some(true)).filter(|_| self.looked)
    }

    /// Whether who has the other ends is not known because processes of users over their budgets were
    /// not read.
    pub(super) fn is_unread(&self) -> bool {
        [&self.stdin, &self.output].into_iter().any(|side| side.peer == Peer::Unread)
    }

    /// Whether it was looked at at all.
    pub(super) fn is_looked_at(&self) -> bool {
        self.looked
    }

    /// Looks whether its descriptors are what they were and the holders still hold them.
    fn look_again(
        &mut self,
        worker: Identity,
        holders: &mut Holders<'_>,
        unix: &mut UnixEnds,
        book: &mut IdentityBook,
    ) {
        self.looked = true;
        self.stdin.look(holders.proc, worker, unix);
        if self.output.look(holders.proc, worker, unix) {
            self.is_log = None;
            self.asked_output = false;
        }
        if self.is_log.is_none() {
            self.compare_with_gateway(holders, book);
        }
        // Whether the holder ran or not: another process may share its descriptors.
        self.stdin.holder_cpu_ns = Maybe::NONE;
        self.stdin.ask_holder(holders, unix);
        self.note_gateway(holders);
        self.output.holder_cpu_ns = Maybe::NONE;
        self.refresh_output(holders, unix);
    }

    /// Finds who gave it its channels, and whether its output is that one's own too. A launcher (`sh
    /// -c`, `npx`) hands on both of its own; its own gateway is who speaks to the worker.
    fn compare_with_gateway(&mut self, holders: &mut Holders<'_>, book: &mut IdentityBook) {
        let Some(gateway) = self.gateway.get() else { return };
        if !holders.is_there(gateway) {
            return;
        }
        let proc = holders.proc;
        self.speaker = gateway.into();
        let end = |pid: u32, fd: u32| proc.fd_end(pid, fd).ok().flatten();
        let is_channel =
            self.stdin.end.is_some_and(|end| matches!(end.kind, EndKind::Pipe | EndKind::Socket));
        let hands_on = |pid: u32| {
            is_channel && end(pid, 0) == self.stdin.end && end(pid, 1) == self.output.end
        };
        let mut at = gateway;
        for _ in 0..LAUNCHERS_MAX {
            if !hands_on(at.pid) {
                self.speaker = at.into();
                break;
            }
            let parent = || {
                let above = proc.stat(at.pid).ok()??.ppid;
                proc.stat(above).ok()?.filter(|_| above > 1)
            };
            let Some(parent) = parent() else { break };
            at = book.proc(parent.pid, parent.start_ns);
        }
        let output = self.output.end.filter(|end| end.inode != 0);
        self.is_log =
            Some(output.is_some() && (end(at.pid, 1) == output || end(at.pid, 2) == output));
    }

    fn note_gateway(&mut self, holders: &mut Holders<'_>) {
        self.gateway_gone |= self.gateway.get().is_none_or(|it| holders.cpu_ns(it) == Ok(None));
    }

    /// Whether it matters who reads what it writes.
    fn needs_output(&self) -> bool {
        self.gateway_gone || !matches!(self.stdin.peer, Peer::Held(..))
    }

    /// The sides that every process is to be searched for.
    fn searched(&mut self) -> impl Iterator<Item = &mut Side> {
        let needs_output = self.needs_output() && self.is_log != Some(true);
        let output = Some(&mut self.output).filter(|_| needs_output);
        [Some(&mut self.stdin), output]
            .into_iter()
            .flatten()
            .filter(|side| side.peer.wants_search())
    }

    fn wants_search(&mut self) -> bool {
        let new =
            self.output.peer == Peer::Wanted && !self.asked_output && self.speaker.get().is_some();
        new || self.searched().next().is_some()
    }

    fn is_holder_gone(&mut self, holders: &mut Holders<'_>) {
        self.note_gateway(holders);
        self.stdin.is_holder_gone(holders);
        if self.needs_output() {
            self.output.is_holder_gone(holders);
        }
    }

    /// Looks at the holders that ran since they were asked. Whether one was asked.
    fn ask_holders(&mut self, holders: &mut Holders<'_>, unix: &mut UnixEnds) -> bool {
        let asked = self.stdin.ask_holder(holders, unix);
        asked | self.refresh_output(holders, unix)
    }

    /// Looks at the output's holder if that matters by now.
    fn refresh_output(&mut self, holders: &mut Holders<'_>, unix: &mut UnixEnds) -> bool {
        self.needs_output() && self.output.ask_holder(holders, unix)
    }
}
