use std::collections::{BTreeMap, BTreeSet};

use super::{AGAIN_A_ROUND, AGAIN_FOR_SPAWN, AGAIN_PART, OTHER_VIEWS, Place, TerminalWatch, look};
use crate::{
    host::{clock::boottime_ns, devpts::Devpts},
    model::{Body, Observation, Process, TerminalEvent, TerminalState},
};

/// Which terminals are related to a worker, and what there is to be told of them.
impl TerminalWatch {
    /// Tells of terminals that are related to a worker, and are new or changed: of all, or, for a
    /// spawn, of those that somebody `above` it may have opened for it.
    pub(super) fn tell(
        &mut self,
        own: Option<Place>,
        above: Option<&[u32]>,
        found: &mut Vec<Observation>,
    ) {
        if self.open.is_empty() {
            return;
        }
        let mut related: BTreeSet<Place> = own.into_iter().collect();
        related.extend(self.again(above.is_some()));
        let mut masters = self.masters(above);
        let held = masters.iter().filter(|(_, by)| {
            above.is_none_or(|above| by.iter().any(|holder| above.contains(&holder.pid)))
        });
        related.extend(held.map(|(place, _)| *place));
        related.retain(|place| self.open.contains_key(place));
        if related.is_empty() {
            return;
        }
        let owners = self.owners(&related);
        // Whom else's master it may be that somebody holds: he may have been given it, or only
        // pretend to hold one of this instance.
        masters.retain(|place, holders| {
            let owner = owners.get(place).copied().flatten();
            let uid = |pid: u32| self.proc.ids(pid).ok().flatten().map(|ids| ids.uid);
            holders.retain(|one| uid(one.pid).is_some_and(|uid| uid == 0 || Some(uid) == owner));
            holders.len() == 1
        });
        self.walk(own, above.is_some(), &owners);
        for place in related {
            let Some(open) = self.open.get_mut(&place) else { continue };
            let users = self.walks.users.get(&place);
            let leader = users.and_then(|users| users.leader.clone());
            let pids = users.map_or(&[][..], |users| &users.processes);
            let rule = self.rule.as_ref();
            let session = users.and_then(|users| users.session(&self.proc, rule?));
            let before = open.told.as_ref();
            let event = TerminalEvent {
                instance: place.0,
                index: place.1,
                opened_ns: open.opened_ns,
                state: TerminalState::Opened,
                source: open.source,
                master: masters
                    .get(&place)
                    .and_then(|holders| holders.first().cloned())
                    .or_else(|| before.and_then(|told| told.master.clone())),
                leader: leader.or_else(|| before.and_then(|told| told.leader.clone())),
                processes: pids.to_vec(),
                session: session.or_else(|| before.and_then(|told| told.session.clone())),
                closer: None,
            };
            let same = before.is_some_and(|told| {
                (&told.master, &told.leader, &told.session)
                    == (&event.master, &event.leader, &event.session)
            });
            if !same {
                let body = Body::Terminal(Box::new(event.clone()));
                found.push(Observation { boottime_ns: boottime_ns(), body });
            }
            if open.told.replace(event).is_none() {
                self.changes.push((true, place));
            }
        }
    }

    /// The terminals whose masters are held by those who open some, and by whom. Those `above` a
    /// spawn are looked at now, others are believed to hold what they held.
    fn masters(&mut self, above: Option<&[u32]>) -> BTreeMap<Place, Vec<Process>> {
        let watched = self.watches.instances();
        let mut masters: BTreeMap<Place, Vec<Process>> = BTreeMap::new();
        for (pid, process) in &self.gateways {
            let held = if above.is_none_or(|above| above.contains(pid)) {
                self.masters.of(&self.proc, *pid, &watched, above.is_none())
            } else if let Some(held) = self.masters.last(*pid) {
                held
            } else {
                continue;
            };
            for place in held {
                masters.entry(*place).or_default().push(process.clone());
            }
        }
        masters
    }

    /// Looks who uses these terminals, if that was not done a moment ago.
    fn walk(&mut self, own: Option<Place>, spawn: bool, owners: &BTreeMap<Place, Option<u32>>) {
        let unknown = |place: &Place| {
            self.open.get(place).is_some_and(|open| open.told.is_none())
                && (!spawn || !self.walks.users.contains_key(place))
        };
        let urgent = own.is_some() || owners.keys().any(unknown);
        let began = boottime_ns();
        if !self.walks.is_due(urgent, began) {
            return;
        }
        // Who asks about some of the terminals does not make the others be forgotten.
        let told = self.open.iter().filter(|(_, open)| open.told.is_some()).map(|(at, _)| *at);
        let mut places: BTreeSet<Place> = told.filter(|at| !owners.contains_key(at)).collect();
        let all: BTreeMap<Place, Option<u32>>;
        let owners = if places.is_empty() {
            owners
        } else {
            places.extend(owners.keys());
            all = self.owners(&places);
            &all
        };
        let users = look::users(&self.proc, owners);
        self.walks.walked(users, began, boottime_ns());
    }

    /// Terminals that were told of and are looked at again: for a spawn some of them, in a round
    /// those whose turn it is.
    fn again(&mut self, spawn: bool) -> Vec<Place> {
        let told = || self.open.iter().filter(|(_, open)| open.told.is_some()).map(|(at, _)| *at);
        if spawn {
            return told().take(AGAIN_FOR_SPAWN).collect();
        }
        let last = self.last_again;
        let turns = told().filter(|at| *at > last).chain(told().filter(|at| *at <= last));
        let turn: Vec<Place> =
            turns.take(AGAIN_A_ROUND.max(told().count().div_ceil(AGAIN_PART))).collect();
        self.last_again = turn.last().copied().unwrap_or(last);
        turn
    }

    /// Whose terminals they are, by their nodes.
    fn owners(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, Option<u32>> {
        let known = self.known();
        let mut first: BTreeMap<u64, Option<Devpts>> = BTreeMap::new();
        let mut owner = |(instance, index): Place| {
            let views = || self.watches.views(instance, &known);
            let first = first.entry(instance).or_insert_with(|| views().next()).as_ref()?;
            // Who is asked first may have mounted something over it.
            let mut others = views().skip(1).take(OTHER_VIEWS);
            first.owner(index).or_else(|| others.find_map(|devpts| devpts.owner(index)))
        };
        places.iter().map(|place| (*place, owner(*place))).collect()
    }
}
