//! Which client connection of a gateway asked for a worker: whom the gateway replied to, who had spoken
//! before, and whose terminal named the session.
//!
//! Each of these leaves some of the connections that were there. Where they leave one and no other,
//! that is the client, if two of them say something (a signal that excludes nobody of several says
//! nothing), or if the reply does and no other was sent at the time. Several, or none in common, say
//! nothing.
//!
//! Who is not seen cannot be excluded: a reply to a port that no look at the connections showed, and a
//! connection without a port (a Unix socket), of which neither a reply nor speech is seen. Then only a
//! terminal that named the session leaves one, for that one is known by its own ports.
//!
//! All of this is about who asked for a worker, not about who uses it now: any client may resume any
//! session on the connection that it has, and nothing that is observed shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{Roster, Sessions, rule};
use crate::{
    model::{Clients, Identity, Record, Reply},
    roster::worker::{Moment, Worker},
};

/// Workers of one gateway whose client is still looked for; the oldest one gives way.
const ASKING_MAX: usize = 64;
/// Connections beyond this are not told apart.
const SEEN_MAX: usize = 64;
/// A session's first request and the spawn of its worker are this far apart at most, ns.
const ASKS_WITHIN: u64 = 10_000_000_000;
/// A look at the connections that comes later than this after a spawn says nothing of it, ns.
const SEEN_WITHIN: u64 = 5_000_000_000;

/// A connection to a gateway right after it forked a worker.
#[derive(Clone, Copy, Debug)]
struct Seen {
    id: u64,
    port: u16,
    /// It may have asked for the worker.
    spoke: bool,
}

/// The connections to a gateway right after it forked a worker.
#[derive(Debug)]
struct Look {
    /// Its record.
    seq: u64,
    /// Those that have a port.
    seen: Vec<Seen>,
    /// There are others.
    portless: bool,
}

/// What the gateway sent after it forked a worker.
#[derive(Clone, Debug)]
struct Answer {
    to: Vec<u16>,
    during: RangeInclusive<u64>,
    seq: u64,
}

/// A worker that some client asked for.
#[derive(Debug)]
struct Asked {
    born: u64,
    look: Option<Look>,
    answer: Option<Answer>,
}

/// The connection that asked for a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::roster) struct Caller {
    pub(in crate::roster) id: u64,
    /// The records of the look and of the reply.
    pub(in crate::roster) seqs: [u64; 2],
}

/// What is known of who asked for a gateway's newest workers, and who was connected when it was last
/// looked at whole.
#[derive(Debug, Default)]
pub(super) struct Callers {
    asked: BTreeMap<Identity, Asked>,
    last: Option<(Moment, BTreeSet<u64>)>,
}

impl Callers {
    pub(super) fn forked(&mut self, worker: Identity, at: u64) {
        self.asked.insert(worker, Asked { born: at, look: None, answer: None });
        if self.asked.len() > ASKING_MAX {
            let oldest = self.asked.iter().min_by_key(|(id, asked)| (asked.born, **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.asked.remove(&oldest);
            }
        }
    }

    /// Returns the workers of which something is known now: this one, and those that were replied to
    /// in the same time.
    pub(super) fn replied(&mut self, reply: &Reply, seq: u64) -> Vec<Identity> {
        let Some(asked) = self.asked.get_mut(&reply.worker) else { return Vec::new() };
        let during = reply.from_ns..=reply.until_ns;
        if asked.answer.is_some() || !reply.complete || reply.sent.is_empty() {
            return Vec::new();
        }
        let to = reply.sent.iter().map(|sent| sent.port).collect();
        asked.answer = Some(Answer { to, during: during.clone(), seq });
        let meets = |(id, asked): (&Identity, &Asked)| {
            let other = asked.answer.as_ref()?;
            rule::meet(&during, &other.during).then_some(*id)
        };
        self.asked.iter().filter_map(meets).collect()
    }

    /// Returns the workers that were forked right before this look at the connections.
    fn looked(&mut self, look: &Clients, now: Moment) -> Vec<Identity> {
        let all = &look.connections;
        let heard = all.iter().any(|one| one.heard_ns.is_some());
        let mut found = Vec::new();
        for (id, asked) in &mut self.asked {
            let due = asked.born..=asked.born.saturating_add(SEEN_WITHIN);
            if asked.look.is_some() || !due.contains(&now.at) || all.len() > SEEN_MAX {
                continue;
            }
            let since = asked.born.saturating_sub(ASKS_WITHIN);
            // Who was heard from only later may have spoken before, too.
            let seen = all.iter().filter_map(|one| {
                let spoke = !heard || one.heard_ns.is_some_and(|at| at >= since);
                Some(Seen { id: one.id, port: one.port?, spoke })
            });
            let seen: Vec<Seen> = seen.collect();
            let portless = seen.len() < all.len();
            asked.look = Some(Look { seq: now.seq, seen, portless });
            found.push(*id);
        }
        found
    }

    /// The workers that some client asked for.
    fn all(&self) -> Vec<Identity> {
        self.asked.keys().copied().collect()
    }

    /// Who asked for a worker. `shown` are the ports of the terminal that named its session; `before`
    /// is who asked for an earlier worker of it.
    fn caller(
        &self,
        worker: Identity,
        shown: Option<&[u16]>,
        before: Option<u64>,
        replies: &[RangeInclusive<u64>],
    ) -> Left {
        let Some(Asked { look: Some(look), answer: Some(answer), .. }) = self.asked.get(&worker)
        else {
            return Left::Unknown;
        };
        let seen = &look.seen;
        let replied = |one: &Seen| answer.to.contains(&one.port);
        let terminal = |one: &Seen| shown.is_none_or(|ports| ports.contains(&one.port));
        let left = |by: &dyn Fn(&Seen) -> bool| seen.iter().filter(|one| by(one)).count();
        let says = |n: usize| n == 1 || n < seen.len();
        let to = left(&replied);
        // Who is replied to has connected since, or is not seen.
        if to == 0 {
            return Left::Unknown;
        }
        let (spoke, named) = (left(&|one| one.spoke), left(&terminal));
        let signals = [says(to), says(spoke), shown.is_some() && says(named)];
        let signals = signals.into_iter().filter(|says| *says).count();
        let unseen = |port: &u16| {
            let excluded = shown.is_some_and(|ports| !ports.contains(port));
            !excluded && !seen.iter().any(|one| one.port == *port)
        };
        let hidden = answer.to.iter().any(unseen) || (look.portless && shown.is_none());
        let mut all = seen.iter().filter(|one| replied(one) && one.spoke && terminal(one));
        let seqs = [look.seq, answer.seq];
        match (all.next(), all.next()) {
            // While it replies to two at a time, either may be the one.
            (Some(one), None)
                if !hidden
                    && (signals > 1 || (says(to) && rule::alone(&answer.during, replies))) =>
            {
                Left::One(Caller { id: one.id, seqs })
            }
            (Some(_), _) => {
                let among = |id: &u64| seen.iter().any(|one| one.id == *id && replied(one));
                match before.filter(among) {
                    // This time it was not seen by itself.
                    Some(id) => Left::One(Caller { id, seqs }),
                    None => {
                        Left::Among(seen.iter().filter(|it| replied(it)).map(|it| it.id).collect())
                    }
                }
            }
            (None, _) => Left::Among(BTreeSet::new()),
        }
    }
}

/// What the signals leave.
#[derive(Debug)]
enum Left {
    One(Caller),
    /// One of several, or none where they contradict.
    Among(BTreeSet<u64>),
    /// Too little was seen.
    Unknown,
}

impl Sessions {
    /// Who was connected when the gateway was last looked at whole.
    fn connected(&self) -> Option<&(Moment, BTreeSet<u64>)> {
        self.callers.last.as_ref()
    }
}

impl Roster {
    /// A look at the connections of a gateway. `here` are all of them, if the look was whole.
    pub(in crate::roster) fn callers_seen(
        &mut self,
        record: &Record,
        clients: &Clients,
        here: Option<&BTreeSet<u64>>,
    ) {
        let gateway = clients.identity();
        let Some(sessions) = self.joins.get_mut(&gateway) else { return };
        let source = clients.source;
        let now = Moment { at: record.boottime_ns, seq: record.seq, source };
        sessions.callers.last = here.map(|here| (now, here.clone()));
        // One that is missing in a list that was cut may be it.
        if here.is_some() {
            let due = sessions.callers.looked(clients, now);
            self.join_clients(gateway, &due);
        }
    }

    /// The same for all whose terminal is known now.
    pub(super) fn join_all_clients(&mut self, gateway: Identity) {
        let all = self.joins.get(&gateway).map(|sessions| sessions.callers.all());
        self.join_clients(gateway, &all.unwrap_or_default());
    }

    /// Joins these workers of a gateway to their clients, as far as can be told.
    pub(super) fn join_clients(&mut self, gateway: Identity, workers: &[Identity]) {
        for &id in workers {
            let Some(sessions) = self.joins.get(&gateway) else { return };
            let Some(worker) = self.worker(id) else { continue };
            let session = worker.session.as_ref();
            // What its terminal's write says; that the gateway replied to it is a signal of its own.
            let named = session.and_then(|session| sessions.all.get(session));
            let named = named.and_then(|session| session.found.as_ref());
            let named = named.filter(|found| found.write.is_some());
            let shown: Option<Vec<u16>> = named
                .and_then(|found| self.terminals.view(found.terminal))
                .map(|terminal| terminal.ports.keys().copied().collect());
            let before = session.and_then(|session| self.by_session.get(session));
            let before = before.into_iter().flatten().filter(|other| **other != id);
            let before = before.filter_map(|other| self.worker(*other)).find_map(|other| {
                let client = other.client.as_ref().filter(|client| client.how.is_joined())?;
                (other.gateway_id() == Some(gateway)).then_some(client.id())
            });
            let shown = shown.as_deref().filter(|ports| !ports.is_empty());
            let replies: Vec<_> = sessions.replies.iter().cloned().collect();
            let left = sessions.callers.caller(id, shown, before, &replies);
            let last = sessions.connected().cloned();
            match left {
                Left::One(caller) => self.set_caller(gateway, id, Some(caller), last.as_ref()),
                Left::Among(some) => {
                    // Whom it was taken to be for was not replied to, or is only one of those.
                    let client = worker.client.as_ref();
                    if client.is_some_and(|it| it.how.is_joined() || !some.contains(&it.id())) {
                        self.set_caller(gateway, id, None, last.as_ref());
                    }
                }
                Left::Unknown => {}
            }
        }
    }

    /// Whether a session is seen to have somebody, although the client that this worker of it is joined
    /// to is gone: another worker of it has a client.
    pub(crate) fn has_another_client(&self, worker: &Worker) -> bool {
        if !worker.client.as_ref().is_some_and(|client| client.how.is_joined()) {
            return false;
        }
        let same = worker.session.as_ref().and_then(|session| self.by_session.get(session));
        let same = same.into_iter().flatten().filter_map(|id| self.worker(*id));
        let mut same = same.filter(|other| other.is_live() && other.key() == worker.key());
        let asks = |other: &Worker| {
            let client = other.client.as_ref();
            client.is_some_and(|it| it.how.is_joined() && it.gone().is_none())
        };
        same.any(asks)
    }
}
