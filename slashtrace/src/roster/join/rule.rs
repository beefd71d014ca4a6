//! The rule: from what was observed of sessions and terminals to who is on which.
//!
//! A client asks for a session; some thread of the gateway, a timer later, forks its worker and then
//! replies. Two things are seen of that, and each leaves some terminals:
//! - *written*: the terminal's process names a new session in its file right after the gateway created
//!   it, between the clone of the timer and a moment after the reply to that;
//! - *replied*: after its fork the forking thread wakes the event loop, and this sends something to the
//!   terminal's process.
//!
//! Where both leave the same one and no other, that is the terminal, strongly; one alone is weak;
//! several, or none in common, say nothing. A write is of one session only.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use crate::model::{ForkingThread, Reply};

/// A timer that lets the reply pass takes this long at least, ns: threads that are cloned one right
/// after the other are a pool's.
const TIMER_MIN: u64 = 40_000_000;
/// And this long at most on a busy machine.
const TIMER_MAX: u64 = 10_000_000_000;
/// Who forks a worker was cloned for it this shortly before, ns.
const FRESH: u64 = 60_000_000_000;
/// A file may look as if it had been written this much earlier, ns: its clock ticks (250 Hz).
const TICK: u64 = 4_500_000;
/// Its process cannot name a session before it was told of it. An event loop that is awake may serve
/// the reply this long before the byte that is to wake it, ns: ten turns of Python's lock.
const WOKE_BEFORE: u64 = 50_000_000;
/// A terminal's process writes its file this shortly after the reply, ns.
const WRITES_WITHIN: u64 = 400_000_000;
/// The reply to a request comes this shortly after the timer was cloned, ns.
const REPLIES_WITHIN: u64 = 10_000_000_000;
/// A connection is noticed this long after it was made at most, ns.
const NOTICED_WITHIN: u64 = 5_000_000_000;

/// When a connection was there, ns of the boot clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connected {
    /// The first look that showed it.
    pub(crate) from: u64,
    /// The first look after it that did not.
    pub(crate) until: Option<u64>,
}

/// A write of a session file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Write {
    /// When, ns of the boot clock.
    pub(crate) at: u64,
    /// What it names.
    pub(crate) session: String,
    /// The record that shows it.
    pub(crate) seq: u64,
}

/// What is known of one terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a, K> {
    pub(crate) key: K,
    pub(crate) opened: u64,
    pub(crate) closed: Option<u64>,
    pub(crate) ports: &'a BTreeMap<u16, Connected>,
    pub(crate) writes: &'a [Write],
}

impl<K> View<'_, K> {
    fn has_port(&self, port: u16, at: u64) -> bool {
        self.ports.get(&port).is_some_and(|seen| {
            seen.from <= at.saturating_add(NOTICED_WITHIN) && seen.until.is_none_or(|end| at <= end)
        })
    }

    fn is_open(&self, at: u64) -> bool {
        self.opened <= at && self.closed.is_none_or(|closed| closed >= at)
    }
}

/// What is known of the spawn of one of a session's first workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Which session it is of, as the caller counts them.
    pub(crate) session: usize,
    /// When, ns of the boot clock.
    pub(crate) forked: u64,
    pub(crate) thread: &'a ForkingThread,
    pub(crate) reply: Option<&'a Reply>,
}

impl Request<'_> {
    /// In which time a terminal's process writes its file for this session: none where no timer's
    /// thread forked its worker.
    pub(crate) fn written_within(&self) -> Option<RangeInclusive<u64>> {
        let [builder, timer, ..] = self.thread.clones.as_slice() else { return None };
        let paused = builder.at_ns.checked_sub(timer.at_ns)?;
        let fresh = self.forked.saturating_sub(builder.at_ns) <= FRESH;
        if !fresh || !(TIMER_MIN..=TIMER_MAX).contains(&paused) {
            return None;
        }
        let latest = timer.at_ns.saturating_add(REPLIES_WITHIN);
        let replied = timer.replied_ns.unwrap_or(timer.at_ns).clamp(timer.at_ns, latest);
        let from = timer.at_ns.saturating_sub(TICK).max(replied.saturating_sub(WOKE_BEFORE));
        Some(from..=replied.saturating_add(WRITES_WITHIN))
    }
}

/// By what a session is joined to a terminal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum By {
    /// The file's write and the gateway's reply.
    Both,
    /// The write alone.
    Write,
    /// The reply alone.
    Reply,
}

/// Which terminal a session is on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Found<K> {
    pub(crate) terminal: K,
    pub(crate) by: By,
    /// The write that it rests on.
    pub(crate) write: Option<Write>,
}

/// Writes, each with its terminal.
type Writes<K> = Vec<(K, Write)>;

/// What one session's signals leave.
#[derive(Debug)]
enum Left<K> {
    /// These writes.
    Writes(By, Writes<K>),
    /// This terminal, by the reply alone.
    Replied(K),
    Nothing,
}

fn left<K: Copy + Ord>(request: &Request<'_>, terminals: &[View<'_, K>]) -> Left<K> {
    let there = || terminals.iter().filter(|one| one.is_open(request.forked));
    let replied = request.reply.filter(|reply| reply.complete).map(|reply| {
        let to = |one: &&View<'_, K>| {
            reply.sent.iter().any(|sent| one.has_port(sent.port, reply.from_ns))
        };
        there().filter(to).map(|one| one.key).collect::<BTreeSet<K>>()
    });
    let Some(window) = request.written_within() else {
        return match replied.as_ref().map(|to| (to.len(), to.first())) {
            Some((1, Some(only))) => Left::Replied(*only),
            _ => Left::Nothing,
        };
    };
    let mut writes = Writes::new();
    for one in there() {
        let first = one.writes.iter().find(|write| window.contains(&write.at));
        writes.extend(first.map(|write| (one.key, write.clone())));
    }
    match replied {
        None => Left::Writes(By::Write, writes),
        Some(to) if writes.is_empty() => {
            // A terminal that has a file would have named the session in it.
            let silent = |key: &K| there().any(|one| one.key == *key && one.writes.is_empty());
            match to.first() {
                Some(only) if to.len() == 1 && silent(only) => Left::Replied(*only),
                _ => Left::Nothing,
            }
        }
        Some(to) => {
            writes.retain(|(key, _)| to.contains(key));
            Left::Writes(By::Both, writes)
        }
    }
}

/// Whether two spans of time have a moment in common.
pub(super) fn meet(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// Whether a reply is the only one in its time.
pub(super) fn alone(own: &RangeInclusive<u64>, replies: &[RangeInclusive<u64>]) -> bool {
    replies.iter().filter(|other| meet(own, other)).count() <= 1
}

/// Which terminal each of these sessions of one gateway (0 to `sessions`) is on, as far as can be told.
/// `taken` are writes that other sessions rest on, `replies` the times of the gateway's replies to
/// whomever.
pub(crate) fn join<K: Copy + Ord>(
    sessions: usize,
    requests: &[Request<'_>],
    terminals: &[View<'_, K>],
    taken: &BTreeSet<(K, u64)>,
    replies: &[RangeInclusive<u64>],
) -> Vec<Option<Found<K>>> {
    let mut found: Vec<Vec<Found<K>>> = (0..sessions).map(|_| Vec::new()).collect();
    let mut open: Vec<(usize, By, Writes<K>)> = Vec::new();
    for request in requests {
        match left(request, terminals) {
            Left::Replied(terminal) => {
                // While it replies to two at a time, either may be the one.
                let own = request.reply.map(|reply| reply.from_ns..=reply.until_ns);
                if own.is_some_and(|own| alone(&own, replies)) {
                    let by = By::Reply;
                    found[request.session].push(Found { terminal, by, write: None });
                }
            }
            Left::Writes(by, mut writes) => {
                writes.retain(|(key, write)| !taken.contains(&(*key, write.at)));
                open.push((request.session, by, writes));
            }
            Left::Nothing => {}
        }
    }
    // Two sessions that are left with one and the same write are both unknown.
    loop {
        let mut sole: BTreeMap<(K, u64), BTreeSet<usize>> = BTreeMap::new();
        for (session, _, writes) in &open {
            if let [(key, write)] = writes.as_slice() {
                sole.entry((*key, write.at)).or_default().insert(*session);
            }
        }
        let certain = sole.into_iter().find(|(_, by)| by.len() == 1);
        let Some((claimed, by)) = certain else { break };
        let is_it = |(key, write): &(K, Write)| (*key, write.at) == claimed;
        open.retain_mut(|(session, how, writes)| {
            if by.contains(session) && writes.len() == 1 && is_it(&writes[0]) {
                let (terminal, write) = writes.remove(0);
                found[*session].push(Found { terminal, by: *how, write: Some(write) });
                return false;
            }
            writes.retain(|write| !is_it(write));
            true
        });
    }
    found.into_iter().map(agreed).collect()
}

/// What the workers of one session come to: the surest, if none contradicts.
fn agreed<K: Copy + Ord>(found: Vec<Found<K>>) -> Option<Found<K>> {
    let first = found.first()?.terminal;
    if found.iter().any(|other| other.terminal != first) {
        return None;
    }
    let sure = found.iter().position(|one| one.by == By::Both);
    found.into_iter().nth(sure.unwrap_or(0))
}

#[cfg(test)]
mod tests;
