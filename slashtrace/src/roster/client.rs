//! Which client a worker is for: the one that its gateway replied to after its spawn (`join`), the one
//! connection of its gateway that spoke right before its spawn, or, where the kernel does not tell who spoke (Unix sockets, other network namespaces), the one
//! that had just connected.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Roster, Subject,
    join::Caller,
    worker::{Moment, Worker},
};
use crate::model::{Clients, Identity, Record};

/// A session's first request and the spawn of its worker are this far apart at most, ns.
const WINDOW: u64 = 10_000_000_000;
/// What is heard so shortly behind a birth was heard before it, as far as clocks tell: the kernel
/// counts in jiffies of up to 10 ms.
const BLUR: u64 = 10_000_000;
/// Who connects and asks for a worker does so within this time, ns.
const OPENED: u64 = 5_000_000_000;
/// A look at the connections that comes later than this behind a spawn says nothing of it, ns.
const PROMPT: u64 = 3_000_000_000;

/// By what a connection is taken for the client that a worker is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// The gateway replied to it after the spawn, and to nobody else who may have asked.
    Joined,
    /// It spoke right before the spawn.
    Spoke,
    /// It connected right before the spawn.
    Connected,
}

impl How {
    /// Whether the gateway's reply is among what says so.
    pub(crate) fn is_joined(self) -> bool {
        self == Self::Joined
    }
}

/// The client that a worker is for.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Inode of the gateway's socket.
    id: u64,
    /// The record that shows it.
    seq: u64,
    /// The record of the gateway's reply.
    reply: Option<u64>,
    pub(crate) how: How,
    /// Since it is gone, and nobody is there who may be it, come back.
    left: Option<Moment>,
    /// When it was first missed since it was last there, ns of the boot clock: whoever uses the worker
    /// since then is somebody else, or it, come back as somebody who cannot be told from others.
    missed: Option<u64>,
    /// Who else was there when it left: none of these is it.
    others: BTreeSet<u64>,
    /// Somebody is there who may be it, come back.
    doubt: bool,
    /// There was a time in which nobody watched since it was last seen.
    unwatched: bool,
}

impl Client {
    /// Inode of the gateway's socket.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The records that show it.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        [Some(self.seq), self.reply].into_iter().flatten()
    }

    fn new(id: u64, how: How, seq: u64, reply: Option<u64>) -> Self {
        Self {
            id,
            seq,
            reply,
            how,
            left: None,
            missed: None,
            others: BTreeSet::new(),
            doubt: false,
            unwatched: false,
        }
    }

    /// Since when it is gone, for all that can be told.
    pub(crate) fn gone(&self) -> Option<Moment> {
        self.left.filter(|_| !self.doubt)
    }

    /// Nobody watched until now: whoever was gone may have been there meanwhile.
    pub(super) fn was_not_watched(&mut self, now: Moment) {
        self.unwatched = true;
        self.left = self.left.map(|_| now);
    }

    fn told(&mut self, here: &BTreeSet<u64>, claimed: &BTreeSet<u64>, now: Moment) {
        if here.contains(&self.id) {
            (self.left, self.missed, self.unwatched) = (None, None, false);
            return;
        }
        if self.left.is_none() {
            (self.left, self.missed) = (Some(now), Some(now.at));
            // Where nobody watched, it may have left long before, and be one of these by now.
            if !self.unwatched {
                self.others.clone_from(here);
            }
        }
        // A page that is loaded again comes back on another connection. One that spoke right before
        // the spawn of another worker is that one's.
        let before = self.doubt;
        self.doubt = here.iter().any(|id| !self.others.contains(id) && !claimed.contains(id));
        if self.doubt || before {
            self.left = Some(now);
        }
    }
}

/// That a connection is the client of a worker of a session.
#[derive(Debug)]
struct Claim {
    id: u64,
    session: Option<Arc<str>>,
}

impl Claim {
    /// Whether a worker of this session is not for that connection, because another session's is.
    fn excludes(&self, id: u64, session: Option<&Arc<str>>) -> bool {
        self.id == id && (session.is_none() || self.session.as_ref() != session)
    }
}

impl Roster {
    /// Takes who is connected to a gateway: attributes workers that were spawned a moment ago, and
    /// sees who left.
    pub(crate) fn clients_told(&mut self, record: &Record, gateway: Identity, clients: &Clients) {
        let Some(workers) = self.gateways.get(&gateway).map(|known| known.live.clone()) else {
            return;
        };
        let here: BTreeSet<u64> = clients.connections.iter().map(|it| it.id).collect();
        let now = Moment { at: record.boottime_ns, seq: record.seq, source: clients.source };
        self.ask_for_clients(&workers, clients, now);
        // The list is cut at some length: who is missing in a full one may be there.
        let whole = clients.complete && here.len() == clients.connected as usize;
        self.callers_seen(record, clients, whole.then_some(&here));
        if !whole {
            return;
        }
        let claimed = self.clients_of(&workers);
        for id in workers {
            self.client_seen(gateway, id, &here, &claimed, now);
        }
    }

    /// The connections that are known to be the clients of these workers.
    fn clients_of(&self, workers: &BTreeSet<Identity>) -> BTreeSet<u64> {
        let all = workers.iter().filter_map(|id| self.worker(*id)).filter(|it| it.is_live());
        all.filter_map(|worker| worker.client.as_ref()).map(|client| client.id).collect()
    }

    /// Connections to its gateway that are not a worker's own client, come back: those that were there
    /// when that one left, and those that are known to be other workers' clients. None where its client
    /// is not known.
    pub(crate) fn other_clients(&self, worker: &Worker) -> BTreeSet<u64> {
        let Some(client) = &worker.client else { return BTreeSet::new() };
        let gateway = worker.gateway_id().and_then(|id| self.gateways.get(&id));
        let mut others = gateway.map(|it| self.clients_of(&it.live)).unwrap_or_default();
        others.extend(&client.others);
        others.remove(&client.id);
        others
    }

    /// Sees whether a worker's client is among those who are connected.
    fn client_seen(
        &mut self,
        gateway: Identity,
        id: Identity,
        here: &BTreeSet<u64>,
        claimed: &BTreeSet<u64>,
        now: Moment,
    ) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_live()) else {
            return;
        };
        // Once somebody else has used it, it is not told any more whose it is.
        worker.taken |= worker.used_by_another();
        if worker.taken {
            worker.client = None;
        }
        if let Some(client) = &mut worker.client {
            client.told(here, claimed, now);
        }
        let departed = worker.client.as_ref().is_some_and(|client| client.gone().is_some());
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            if departed {
                gateway.departed.insert(id);
            } else {
                gateway.departed.remove(&id);
            }
        }
    }

    /// Live workers that this one only launched, however many launchers are between.
    fn launched_from(&self, id: Identity) -> Vec<Identity> {
        let Some(launcher) = self.workers.get(&id).filter(|worker| worker.launcher) else {
            return Vec::new();
        };
        let session = launcher.session.as_ref().and_then(|session| self.by_session.get(session));
        let all = session.into_iter().flatten().filter_map(|other| self.worker(*other));
        all.filter(|other| other.is_live() && other.above.contains(&id)).map(|it| it.id).collect()
    }

    /// Takes who asked for a worker, which it is known of now, or that nobody knows; `last` is who was
    /// connected when the gateway was last looked at whole.
    pub(super) fn set_caller(
        &mut self,
        gateway: Identity,
        id: Identity,
        caller: Option<Caller>,
        last: Option<&(Moment, BTreeSet<u64>)>,
    ) {
        // What it launched is for the same client.
        for id in self.launched_from(id).into_iter().chain([id]) {
            // Who asked for it matters no more once somebody else has used it, and a join is retried
            // whenever others of the gateway change.
            let worker = self.workers.get_mut(&id).filter(|worker| !worker.taken);
            let Some(worker) = worker else { continue };
            worker.client_judged = true;
            let known = worker
                .client
                .as_mut()
                .filter(|known| caller.is_some_and(|caller| caller.id == known.id));
            match (known, caller) {
                (Some(known), Some(caller)) => {
                    known.how = How::Joined;
                    (known.seq, known.reply) = (caller.seqs[0], Some(caller.seqs[1]));
                }
                (_, caller) => {
                    worker.client = caller.map(|caller| {
                        let [seq, reply] = caller.seqs;
                        Box::new(Client::new(caller.id, How::Joined, seq, Some(reply)))
                    });
                }
            }
            let live = self.gateways.get(&gateway).map(|known| known.live.clone());
            if let (Some((now, here)), Some(live)) = (last, live)
                && live.contains(&id)
            {
                let claimed = self.clients_of(&live);
                self.client_seen(gateway, id, here, &claimed, *now);
            }
        }
        self.touch(Subject::Gateway(gateway));
    }

    /// Attributes the workers that no look was behind yet: only the first one tells who had spoken
    /// right before the spawn.
    fn ask_for_clients(&mut self, workers: &BTreeSet<Identity>, clients: &Clients, now: Moment) {
        let all = || workers.iter().filter_map(|id| self.worker(*id)).filter(|it| it.is_live());
        let claim = |worker: &Worker, client: &Client| Claim {
            id: client.id,
            session: worker.session.clone(),
        };
        let claims: Vec<Claim> =
            all().filter_map(|it| it.client.as_ref().map(|client| claim(it, client))).collect();
        let due = all().filter(|worker| !worker.client_judged && worker.birth.at <= now.at);
        let found: Vec<(&Worker, Option<Client>)> =
            due.map(|worker| (worker, who_spoke(worker, clients, &claims, now))).collect();
        let new: Vec<Claim> = found
            .iter()
            .filter_map(|(worker, client)| client.as_ref().map(|client| claim(worker, client)))
            .collect();
        // One that may have asked for workers of two sessions asked for neither, for all that can
        // be told.
        let sole = |worker: &Worker, client: &Client| {
            let session = worker.session.as_ref();
            let own = new.iter().filter(|claim| claim.id == client.id);
            own.clone().count() == 1 || !own.clone().any(|it| it.excludes(client.id, session))
        };
        let judged: Vec<(Identity, Option<Client>)> = found
            .iter()
            .map(|(worker, client)| {
                (worker.id, client.clone().filter(|client| sole(worker, client)))
            })
            .collect();
        for (id, client) in judged {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.client_judged = true;
                worker.client = client.map(Box::new);
            }
        }
    }
}

impl Worker {
    /// Whether it was asked something since its own client was first missed: by somebody else, then,
    /// also while somebody is there who may be that client, come back.
    pub(crate) fn used_by_another(&self) -> bool {
        let missed = self.client.as_ref().and_then(|client| client.missed);
        let rise = self.activity.newest_rise();
        missed.is_some_and(|missed| rise.is_some_and(|rise| rise.from >= missed))
    }

    /// It is for whom its launcher was spawned for.
    pub(crate) fn launched_by(&mut self, launcher: &Self) {
        self.client.clone_from(&launcher.client);
        self.client_judged = launcher.client_judged;
        self.taken = launcher.taken;
    }
}

/// The one connection that no other session claims and that spoke in the moments before a spawn.
fn who_spoke(worker: &Worker, clients: &Clients, claims: &[Claim], now: Moment) -> Option<Client> {
    let birth = worker.birth.at;
    // One that is missing in a list that was cut may be it.
    let whole = clients.complete && clients.connections.len() == clients.connected as usize;
    if worker.birth.inherited || now.at > birth.saturating_add(PROMPT) || !whole {
        return None;
    }
    let all = &clients.connections;
    let heard = all.iter().any(|it| it.heard_ns.is_some());
    let how = if heard { How::Spoke } else { How::Connected };
    let spoke = birth.saturating_sub(WINDOW)..=birth.saturating_add(PROMPT);
    let opened = birth.saturating_sub(OPENED)..=birth.saturating_add(PROMPT);
    let mut found = all.iter().filter(|it| {
        let asked = if heard {
            it.heard_ns.is_some_and(|at| spoke.contains(&at))
        } else {
            it.since_ns.is_some_and(|since| opened.contains(&since))
        };
        let session = worker.session.as_ref();
        asked && !claims.iter().any(|claim| claim.excludes(it.id, session))
    });
    let client = found.next()?;
    // One that was heard from since may have spoken only then.
    let before = client.heard_ns.is_none_or(|heard| heard <= birth.saturating_add(BLUR));
    (before && found.next().is_none()).then(|| Client::new(client.id, how, now.seq, None))
}
