//! Which terminal a worker of a flat tree is for: one gateway that serves many terminals forks workers
//! that have none of their own. `rule` says how that is found; here it is kept, session by session, as
//! the records come in.

mod clients;
pub(super) mod rule;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use self::{clients::Callers, rule::Request};
use super::{Roster, Subject, terminal::Key, worker::Worker};
use crate::model::{ForkingThread, Identity, Record, Reply, Spawn};

pub(super) use self::clients::Caller;
pub(super) use self::rule::{By, Connected, Found, View, Write};

/// What is found out of a session's first spawn is found out within this time, ns.
const SETTLES_WITHIN: u64 = 60_000_000_000;
/// Sessions of one gateway that are remembered; the oldest without a live worker is forgotten.
const SESSIONS_MAX: usize = 1_024;

/// Workers of one session that are forked this shortly after the first may race with it, ns.
const RACES_WITHIN: u64 = 10_000_000_000;
/// So many of them count.
const FIRST_MAX: usize = 4;
/// Replies of one gateway whose times are remembered.
const REPLIES_MAX: usize = 256;

/// A worker of a session of a gateway that serves several terminals.
#[derive(Debug)]
struct Forked {
    id: Identity,
    at: u64,
    thread: ForkingThread,
    /// What the gateway sent for it, and the record that says so.
    reply: Option<(Reply, u64)>,
}

/// A session of such a gateway.
#[derive(Debug)]
struct Session {
    /// When its first worker was forked.
    began: u64,
    /// The first ones: two may race.
    first: Vec<Forked>,
    found: Option<Found<Key>>,
    /// A later reply for this session went elsewhere: the record that says so.
    elsewhere: Option<u64>,
}

/// The sessions of one gateway, and the threads that forked workers for them later.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<Arc<str>, Session>,
    /// By who was forked first, oldest first.
    order: BTreeSet<(u64, Arc<str>)>,
    /// When it replied lately, to whomever.
    replies: VecDeque<RangeInclusive<u64>>,
    /// Who asked for its workers.
    callers: Callers,
}

/// What a session is joined by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined<'a> {
    pub(super) found: &'a Found<Key>,
    /// The record of the reply.
    pub(super) reply_seq: Option<u64>,
}

/// Whether a reply may have gone to a terminal.
fn is_to(terminal: &View<'_, Key>, reply: &Reply) -> bool {
    reply.sent.iter().any(|sent| terminal.ports.contains_key(&sent.port))
}

impl Roster {
    /// A worker was forked by a thread of its gateway.
    pub(super) fn thread_forked(&mut self, record: &Record, spawn: &Spawn) {
        let Some(thread) = &spawn.thread else { return };
        let id = spawn.identity();
        let Some(key) = self.worker(id).and_then(Worker::key) else { return };
        let sessions = self.joins.entry(key.gateway).or_default();
        let at = record.boottime_ns;
        sessions.callers.forked(id, at);
        let forked = Forked { id, at, thread: thread.clone(), reply: None };
        if let Some(session) = sessions.all.get_mut(&key.session) {
            let early = at <= session.began.saturating_add(RACES_WITHIN);
            if early
                && session.first.len() < FIRST_MAX
                && session.first.iter().all(|it| it.id != id)
            {
                session.first.push(forked);
            }
            return;
        }
        sessions.order.insert((at, Arc::clone(&key.session)));
        let session = Session { began: at, first: vec![forked], found: None, elsewhere: None };
        sessions.all.insert(Arc::clone(&key.session), session);
        self.forget_sessions(key.gateway);
        self.join_sessions(key.gateway);
    }

    /// A gateway sent something for a thread that had forked a worker.
    pub(super) fn replied(&mut self, record: &Record, reply: &Reply) {
        let gateway = reply.identity();
        let Some(sessions) = self.joins.get_mut(&gateway) else { return };
        sessions.replies.push_back(reply.from_ns..=reply.until_ns);
        if sessions.replies.len() > REPLIES_MAX {
            sessions.replies.pop_front();
        }
        let known = sessions.callers.replied(reply, record.seq);
        self.join_terminal(gateway, record, reply);
        self.join_clients(gateway, &known);
    }

    /// To which terminal the session of a worker is joined by a reply, or that it went elsewhere.
    fn join_terminal(&mut self, gateway: Identity, record: &Record, reply: &Reply) {
        let Some(key) = self.worker(reply.worker).and_then(Worker::key) else { return };
        let Some(sessions) = self.joins.get_mut(&gateway) else { return };
        let Some(session) = sessions.all.get_mut(&key.session) else { return };
        if let Some(first) = session.first.iter_mut().find(|it| it.id == reply.worker) {
            if first.reply.is_none() {
                first.reply = Some((reply.clone(), record.seq));
                self.join_sessions(gateway);
            }
        } else if let Some(found) = &session.found
            && !reply.sent.is_empty()
        {
            let same = self.terminals.view(found.terminal).is_some_and(|own| is_to(&own, reply));
            session.elsewhere = if same { None } else { Some(record.seq) };
            self.touch_session(&key.session);
        }
    }

    /// Joins what can be joined of a gateway's sessions, and marks the workers of those that changed.
    pub(super) fn join_sessions(&mut self, gateway: Identity) {
        let Some(sessions) = self.joins.get(&gateway) else { return };
        let now = self.now;
        let settled = |session: &Session| now > session.began.saturating_add(SETTLES_WITHIN);
        let taken: BTreeSet<(Key, u64)> = sessions
            .all
            .values()
            .filter(|session| settled(session))
            .filter_map(|session| session.found.as_ref())
            .filter_map(|found| Some((found.terminal, found.write.as_ref()?.at)))
            .collect();
        let open = sessions.all.iter().filter(|(_, session)| !settled(session));
        let (names, open): (Vec<Arc<str>>, Vec<&Session>) =
            open.map(|(name, session)| (Arc::clone(name), session)).unzip();
        if names.is_empty() {
            return;
        }
        let terminals: Vec<View<'_, Key>> = self.terminals.views_of(gateway).collect();
        let replies: Vec<RangeInclusive<u64>> = sessions.replies.iter().cloned().collect();
        let mut requests = Vec::new();
        for (at, session) in open.into_iter().enumerate() {
            requests.extend(session.first.iter().map(|it| Request {
                session: at,
                forked: it.at,
                thread: &it.thread,
                reply: it.reply.as_ref().map(|(reply, _)| reply),
            }));
        }
        let joined = rule::join(names.len(), &requests, &terminals, &taken, &replies);
        let mut changed = Vec::new();
        let Some(sessions) = self.joins.get_mut(&gateway) else { return };
        for (name, found) in names.into_iter().zip(joined) {
            let Some(session) = sessions.all.get_mut(&name) else { continue };
            if session.found != found {
                session.found = found;
                changed.push(name);
            }
        }
        if changed.is_empty() {
            return;
        }
        for name in changed {
            self.touch_session(&name);
        }
        self.join_all_clients(gateway);
    }

    /// What a worker's session is joined to a terminal by.
    pub(super) fn joined(&self, worker: &Worker) -> Option<Joined<'_>> {
        let session = self.joined_session(worker)?;
        let found = session.found.as_ref().filter(|_| session.elsewhere.is_none())?;
        // Who asked for one of the first workers may be on another terminal, or on none.
        let own = self.terminals.view(found.terminal)?;
        let mut replies = session.first.iter().filter_map(|it| it.reply.as_ref());
        if replies.any(|(reply, _)| !reply.sent.is_empty() && !is_to(&own, reply)) {
            return None;
        }
        let reply = session.first.iter().find_map(|it| it.reply.as_ref());
        Some(Joined { found, reply_seq: reply.map(|(_, seq)| *seq) })
    }

    /// Whether anything was observed that could have joined it.
    pub(super) fn could_be_joined(&self, worker: &Worker) -> bool {
        self.joined_session(worker).is_some()
    }

    fn joined_session(&self, worker: &Worker) -> Option<&Session> {
        self.joins.get(&worker.gateway_id()?)?.all.get(worker.session.as_ref()?)
    }

    /// Live workers of sessions that are joined to a terminal of this gateway.
    pub(super) fn joined_to(&self, gateway: Identity, terminal: Key) -> Vec<Identity> {
        let Some(sessions) = self.joins.get(&gateway) else { return Vec::new() };
        let on = sessions.all.iter().filter(|(_, session)| {
            session.found.as_ref().is_some_and(|found| found.terminal == terminal)
        });
        let workers = on.filter_map(|(name, _)| self.by_session.get(name)).flatten();
        workers.copied().collect()
    }

    /// How many sessions are remembered.
    #[cfg(test)]
    pub(crate) fn joined_sessions(&self) -> usize {
        self.joins.values().map(|sessions| sessions.all.len()).sum()
    }

    fn touch_session(&mut self, session: &Arc<str>) {
        let workers = self.by_session.get(session).map(|ids| ids.to_vec()).unwrap_or_default();
        // Whether its terminal is known bears on whether its workers are abandoned.
        self.touch_gateways_without_clients(&workers, None);
        for id in workers {
            self.touch(Subject::Worker(id));
        }
    }

    /// Forgets the oldest sessions of a gateway that have no live worker, beyond a number; and
    /// gateways that have none.
    fn forget_sessions(&mut self, gateway: Identity) {
        let Some(sessions) = self.joins.get_mut(&gateway) else { return };
        if sessions.all.len() <= SESSIONS_MAX {
            return;
        }
        let lives = |name: &Arc<str>| {
            let mut ids = self.by_session.get(name).into_iter().flatten();
            ids.any(|id| self.workers.get(id).is_some_and(Worker::is_live))
        };
        let oldest = sessions.order.iter().find(|(_, name)| !lives(name));
        if let Some(oldest) = oldest.or(sessions.order.first()).cloned() {
            sessions.all.remove(&oldest.1);
            sessions.order.remove(&oldest);
        }
    }
}
