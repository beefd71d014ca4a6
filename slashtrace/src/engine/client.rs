//! Which client a worker is for: the one connection of its gateway that spoke right before its spawn.

use std::collections::BTreeSet;

use super::{
    table::Table,
    worker::{Moment, Worker},
};
use crate::model::{Clients, Identity, Record};

/// A session's first request and the spawn of its worker are this far apart at most, ns.
const WINDOW: u64 = 5_000_000_000;
/// A look at the connections that comes later than this behind a spawn says nothing of it, ns.
const PROMPT: u64 = 3_000_000_000;

/// The client that a worker is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Inode of the gateway's socket.
    id: u64,
    /// The record that shows it.
    pub(super) seq: u64,
    /// Since it is gone.
    pub(super) left: Option<Moment>,
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
        for id in &workers {
            let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_live()) else {
                continue;
            };
            // The list is cut at some length: who is missing in a full one may be there.
            let whole = clients.complete && here.len() == clients.connected as usize;
            if let Some(client) = worker.client.as_mut().filter(|_| whole) {
                client.left =
                    if here.contains(&client.id) { None } else { client.left.or(Some(now)) };
            }
        }
        let claimed: BTreeSet<u64> = workers
            .iter()
            .filter_map(|id| self.workers.get(id).filter(|it| it.is_live())?.client)
            .map(|client| client.id)
            .collect();
        for id in workers {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if worker.client_judged || !worker.is_live() {
                continue;
            }
            // Only the first look behind the spawn tells who had spoken right before it.
            worker.client_judged = true;
            worker.client = who_spoke(worker, clients, &claimed, now);
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
    spoke.next().is_none().then_some(Client { id: client.id, seq: now.seq, left: None })
}
