//! How many workers each gateway has too many, and how that develops.

use std::collections::hash_map::Entry;

use super::growth::{Growth, LAG};
use crate::{
    model::Identity,
    roster::{GroupKey, Index, Roster},
};

/// The surplus of a gateway: its live workers past the overlap grace, less one for each session
/// that has any.
#[derive(Debug)]
pub(super) struct Surplus {
    /// Sum over its groups.
    pub(super) workers: u64,
    /// When that last changed, ns of the boot clock.
    changed_at: u64,
    pub(super) growth: Growth,
}

/// The surplus of every gateway and group that has one.
#[derive(Debug, Default)]
pub(super) struct Surpluses {
    gateways: Index<Identity, Surplus>,
    groups: Index<GroupKey, u64>,
    changed: bool,
}

impl Surpluses {
    pub(super) fn of(&self, gateway: Identity) -> Option<&Surplus> {
        self.gateways.get(&gateway)
    }

    /// The gateways that have a surplus, in no order.
    pub(super) fn gateways(&self) -> impl Iterator<Item = Identity> + '_ {
        self.gateways.iter().filter(|(_, surplus)| surplus.workers > 0).map(|(&id, _)| id)
    }

    pub(super) fn of_group(&self, key: &GroupKey) -> u64 {
        self.groups.get(key).copied().unwrap_or(0)
    }

    /// Whether a gateway's surplus changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Notes the surplus of a group, and of its gateway with it.
    pub(super) fn set(&mut self, key: &GroupKey, surplus: u64, roster: &Roster) {
        let before = match (surplus, self.groups.entry(key.clone())) {
            (0, Entry::Vacant(_)) => 0,
            (0, Entry::Occupied(at)) => at.remove(),
            (_, Entry::Vacant(at)) => {
                at.insert(surplus);
                0
            }
            (_, Entry::Occupied(mut at)) => at.insert(surplus),
        };
        if before == surplus {
            return;
        }
        self.changed = true;
        if let Some(gateway) = self.watched(key.gateway, roster) {
            gateway.workers = gateway.workers.saturating_sub(before).saturating_add(surplus);
            gateway.changed_at = roster.now;
        }
    }

    /// Brings what is known of a gateway's growth up to now. Growth begins when it is first seen;
    /// one that is forgotten has none.
    pub(super) fn watch(&mut self, id: Identity, least: u64, roster: &Roster) {
        let now = roster.now;
        let Some(gateway) = self.watched(id, roster) else { return };
        for at in gateway.growth.due(now, &roster.rules) {
            // What changed a moment ago may have been told late; before that it was as it is.
            let settled = gateway.changed_at.saturating_add(LAG) <= at;
            let surplus = if settled { gateway.workers } else { roster.surplus_at(id, at) };
            gateway.growth.note(at, surplus);
        }
        gateway.growth.settle(now, gateway.workers, least, &roster.rules);
    }

    fn watched(&mut self, id: Identity, roster: &Roster) -> Option<&mut Surplus> {
        if roster.gateway(id).is_none() {
            self.gateways.remove(&id);
            return None;
        }
        Some(self.gateways.entry(id).or_insert_with(|| Surplus {
            workers: 0,
            changed_at: roster.now,
            growth: Growth::new(roster.now),
        }))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> Vec<usize> {
        vec![self.gateways.len(), self.groups.len()]
    }
}
