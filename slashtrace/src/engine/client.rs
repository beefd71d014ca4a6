//! Which client a worker is for: the one connection of its gateway that spoke right before its spawn.

use std::collections::BTreeSet;

use super::{
    table::Table,
    worker::{Moment, Worker},
};
use crate::model::{Clients, Identity, Record};

/// A session's first request and the spawn of its worker are this far apart at most, ns.
const WINDOW: u64 = 10_000_000_000;
/// A look at the connections that comes later than this behind a spawn says nothing of it, ns.
const PROMPT: u64 = 3_000_000_000;

/// The client that a worker is for.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Inode of the gateway's socket.
    id: u64,
    /// The record that shows it.
    pub(super) seq: u64,
    /// Since it is gone, and nobody is there who may be it, come back.
    left: Option<Moment>,
    /// Who else was there when it left: none of these is it.
    others: BTreeSet<u64>,
    /// Somebody is there who may be it, come back.
    doubt: bool,
}

impl Client {
    /// Since when it is gone, for all that can be told.
    pub(super) fn gone(&self) -> Option<Moment> {
        self.left.filter(|_| !self.doubt)
    }

    fn told(&mut self, here: &BTreeSet<u64>, claimed: &BTreeSet<u64>, now: Moment) {
        if here.contains(&self.id) {
            self.left = None;
            return;
        }
        if self.left.is_none() {
            self.left = Some(now);
            self.others.clone_from(here);
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

impl Table {
    /// Takes who is connected to a gateway: attributes workers that were spawned a moment ago, and
    /// sees who left.
    pub(super) fn clients_told(&mut self, record: &Record, gateway: Identity, clients: &Clients) {
        let Some(workers) = self.gateways.get(&gateway).map(|known| known.workers.clone()) else {
            return;
        };
        let here: BTreeSet<u64> = clients.connections.iter().map(|it| it.id).collect();
        let now = Moment { at: record.boottime_ns, seq: record.seq, source: clients.source };
        let mut claimed: BTreeSet<u64> = workers
            .iter()
            .filter_map(|id| self.workers.get(id).filter(|it| it.is_live())?.client.as_ref())
            .map(|client| client.id)
            .collect();
        for id in &workers {
            let Some(worker) = self.workers.get_mut(id) else { continue };
            if worker.client_judged || !worker.is_live() {
                continue;
            }
            // Only the first look behind the spawn tells who had spoken right before it.
            worker.client_judged = true;
            worker.client = who_spoke(worker, clients, &claimed, now);
            claimed.extend(worker.client.iter().map(|client| client.id));
        }
        // The list is cut at some length: who is missing in a full one may be there.
        if !clients.complete || here.len() != clients.connected as usize {
            return;
        }
        for id in workers {
            if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_live())
                && let Some(client) = &mut worker.client
            {
                client.told(&here, &claimed, now);
            }
        }
    }
}

/// The one connection that nobody else claims and that spoke in the moments before a spawn.
fn who_spoke(
    worker: &Worker,
    clients: &Clients,
    claimed: &BTreeSet<u64>,
    now: Moment,
) -> Option<Client> {
    let birth = worker.birth.at;
    if worker.birth.inherited || now.at > birth.saturating_add(PROMPT) || !clients.complete {
        return None;
    }
    let window = birth.saturating_sub(WINDOW)..=birth.saturating_add(PROMPT);
    let mut spoke = clients.connections.iter().filter(|connection| {
        !claimed.contains(&connection.id)
            && connection.heard_ns.is_some_and(|heard| window.contains(&heard))
    });
    let client = spoke.next()?;
    spoke.next().is_none().then(|| Client {
        id: client.id,
        seq: now.seq,
        left: None,
        others: BTreeSet::new(),
        doubt: false,
    })
}
