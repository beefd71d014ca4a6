//! A group: the workers of one session under one gateway, where one persistent worker is supposed
//! to be.

use std::sync::Arc;

use super::{
    GroupKey, Index, Moment, Roster, Subject,
    few::Few,
    replacements::{self, Replacements, Spawned},
    timeline::Timeline,
    worker::{Worker, witness},
};
use crate::model::{Identity, Maybe};

/// The members of a group, ended ones included as long as they are remembered.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Live ones, by birth.
    pub(crate) live: Few<(u64, Identity)>,
    /// Those that have ended, by when.
    pub(super) ended: Timeline,
    /// Those that were seen to serve, by the beginning of their newest rise.
    risen: Timeline,
    /// Who replaced whom, once there were several spawns: most groups have one worker.
    replacements: Option<Box<Replacements>>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.live.is_empty() && self.ended.is_empty()
    }

    fn put(&mut self, birth: u64, id: Identity, end: Option<u64>) {
        match end {
            None => {
                let place = self.live.partition_point(|it| *it < (birth, id));
                self.live.insert(place, (birth, id));
            }
            Some(end) => self.ended.insert(end, id),
        }
    }

    fn take(&mut self, id: Identity, end: Option<u64>) {
        match end {
            None => self.live.remove(|&(_, live)| live == id),
            Some(end) => self.ended.remove(end, id),
        }
    }

    /// Who replaced whom; none while fewer than three spawns are remembered.
    pub(crate) fn replacements(&self) -> Option<&Replacements> {
        self.replacements.as_deref()
    }

    /// Those that served from `since` on, the newest first.
    pub(crate) fn risen_since(
        &self,
        since: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, Identity)> + '_ {
        self.risen.within(since..).rev()
    }
}

/// Where a worker is listed: what has to be taken out again when it changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    /// It is in its group and below its gateway at all.
    somewhere: bool,
    /// The end under which it is listed.
    end: Maybe,
    /// The beginning of the rise under which it is listed.
    rise: Maybe,
}

impl Roster {
    /// Puts a worker into its group and below its gateway, and counts it.
    pub(super) fn enlist(&mut self, id: Identity) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.counts()) else { return };
        self.totals.spawned += 1;
        self.totals.inherited += u64::from(worker.birth.inherited);
        self.totals.live += u64::from(worker.is_live());
        let (birth, inherited) = (worker.birth.at, worker.birth.inherited);
        let end = worker.end().map(|end| end.at);
        let rise = worker.activity.newest_rise().map(|rise| rise.from);
        let (key, link) = (worker.key(), worker.gateway.clone());
        let (session, terminal) = (worker.session.clone(), worker.terminal.get());
        if let Some(link) = link {
            self.ensure_gateway(&link.process, None);
            let at = link.process.identity();
            if let Some(gateway) = self.gateways.get_mut(&at) {
                gateway.births.insert(birth, id);
                gateway.put(id, end);
            }
            self.refresh_left_behind(at);
        }
        if let Some(key) = key {
            let group = self.groups.entry(key.clone()).or_default();
            group.put(birth, id, end);
            if let Some(rise) = rise {
                group.risen.insert(rise, id);
            }
            if !inherited {
                self.note_spawn(&key, Spawned { birth, id });
            }
        }
        if let Some(session) = session {
            self.by_session.entry(session).or_default().push(id);
        }
        if let Some(terminal) = terminal {
            self.by_tty.entry(terminal.index).or_default().insert(id);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.listed = Listed { somewhere: true, end: end.into(), rise: rise.into() };
        }
        self.touch_around(id);
    }

    /// Takes a worker out of its group and from its gateway. `counted`: it stays in the totals,
    /// because it is only forgotten.
    pub(super) fn dismiss(&mut self, id: Identity, counted: bool) {
        if counted {
            // It has ended, so its gateway is what it was.
            self.touch(Subject::Worker(id));
            if let Some(key) = self.workers.get(&id).and_then(Worker::key) {
                self.touch(Subject::Group(key));
            }
        } else {
            self.touch_around(id);
        }
        let Some(worker) = self.workers.get_mut(&id).filter(|it| it.listed.somewhere) else {
            return;
        };
        let listed = std::mem::take(&mut worker.listed);
        let (end, rise) = (listed.end.get(), listed.rise.get());
        let (birth, inherited) = (worker.birth.at, worker.birth.inherited);
        let (key, at) = (worker.key(), worker.gateway_id());
        let (session, terminal) = (worker.session.clone(), worker.terminal.get());
        self.totals.live -= u64::from(end.is_none());
        if !counted {
            self.totals.spawned -= 1;
            self.totals.inherited -= u64::from(inherited);
        }
        if let Some(key) = key
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.take(id, end);
            if let Some(rise) = rise {
                group.risen.remove(rise, id);
            }
            if group.is_empty() {
                self.groups.remove(&key);
            } else if !inherited {
                self.with_replacements(&key, |replacements, replaces| {
                    replacements.remove(Spawned { birth, id }, replaces);
                });
            }
        }
        if let Some(at) = at
            && let Some(gateway) = self.gateways.get_mut(&at)
        {
            gateway.births.remove(birth, id);
            gateway.live.remove(&id);
            gateway.departed.remove(&id);
            if let Some(end) = end {
                gateway.ended.remove(end, id);
            }
            if gateway.live.is_empty() && gateway.ended.is_empty() {
                self.retiring.idle(at);
            }
            self.refresh_left_behind(at);
        }
        if let Some(session) = session {
            unlist(&mut self.by_session, &session, id);
        }
        if let Some(terminal) = terminal
            && let Some(ids) = self.by_tty.get_mut(&terminal.index)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_tty.remove(&terminal.index);
            }
        }
    }

    /// A worker's life as one ended (or came back): its group is told, and an ended one is kept
    /// for a while.
    pub(super) fn life_changed(&mut self, id: Identity) {
        self.touch_around(id);
        let Some(worker) = self.workers.get(&id) else { return };
        let end = worker.end().map(|end| end.at);
        let before = worker.listed.end.get();
        if worker.listed.somewhere && before != end {
            self.relist(id, before, end);
        }
        if end.is_some() {
            self.keep_for_now(id);
        }
        self.leave_alone(id);
    }

    fn relist(&mut self, id: Identity, before: Option<u64>, end: Option<u64>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.listed.end = end.into();
        let (birth, inherited) = (worker.birth.at, worker.birth.inherited);
        let (key, at) = (worker.key(), worker.gateway_id());
        self.totals.live += u64::from(end.is_none());
        self.totals.live -= u64::from(before.is_none());
        if let Some(at) = at
            && let Some(gateway) = self.gateways.get_mut(&at)
        {
            gateway.take(id, before);
            gateway.put(id, end);
            if end.is_some() {
                gateway.departed.remove(&id);
            }
            self.refresh_left_behind(at);
        }
        if let Some(key) = key
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.take(id, before);
            group.put(birth, id, end);
            if !inherited {
                self.with_replacements(&key, |replacements, replaces| {
                    replacements.refresh(Spawned { birth, id }, replaces);
                });
            }
        }
    }

    /// A worker was seen to work: it is listed under its newest rise.
    pub(super) fn activity_changed(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id).filter(|it| it.listed.somewhere) else {
            return;
        };
        let rise = worker.activity.newest_rise().map(|rise| rise.from);
        let before = std::mem::replace(&mut worker.listed.rise, rise.into()).get();
        if before == rise {
            return;
        }
        let Some(group) = worker.key().and_then(|key| self.groups.get_mut(&key)) else { return };
        if let Some(before) = before {
            group.risen.remove(before, id);
        }
        if let Some(rise) = rise {
            group.risen.insert(rise, id);
        }
    }

    /// A worker of a group was seen being spawned.
    fn note_spawn(&mut self, key: &GroupKey, one: Spawned) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let mut spawns = vec![one];
        if group.replacements.is_none() {
            if group.live.len() + group.ended.len() < replacements::FEW {
                return;
            }
            let members = group.live.iter().map(|(_, id)| *id);
            let members = members.chain(group.ended.iter().map(|(_, id)| id));
            let members = members.filter_map(|id| self.workers.get(&id));
            let seen = members.filter(|worker| !worker.birth.inherited);
            spawns = seen.map(|it| Spawned { birth: it.birth.at, id: it.id }).collect();
            if spawns.len() < replacements::FEW {
                return;
            }
            group.replacements = Some(Box::default());
        }
        self.with_replacements(key, |replacements, replaces| {
            spawns.sort_unstable();
            for one in spawns {
                replacements.insert(one, replaces);
            }
        });
    }

    /// Changes what is kept of who replaced whom in a group, if anything is.
    fn with_replacements(
        &mut self,
        key: &GroupKey,
        change: impl FnOnce(&mut Replacements, &dyn Fn(Identity, Identity) -> bool),
    ) {
        let group = self.groups.get_mut(key);
        let Some(mut replacements) = group.and_then(|it| it.replacements.take()) else { return };
        change(&mut replacements, &|before, after| self.replaces(before, after));
        if let Some(group) = self.groups.get_mut(key) {
            group.replacements = Some(replacements);
        }
    }

    /// Whether the second of two spawns replaced the first: the same model, and the first one was
    /// gone before they overlapped for longer than a restart takes.
    fn replaces(&self, before: Identity, after: Identity) -> bool {
        let both = self.workers.get(&before).zip(self.workers.get(&after));
        both.is_some_and(|(before, after)| {
            let end = before.end();
            let overlap = |end: Moment| end.at.saturating_sub(after.birth.at);
            before.model == after.model && end.is_some_and(|end| overlap(end) < self.rules.overlap)
        })
    }

    /// Notes a leaving sibling with those that it served beside.
    pub(super) fn keep_witness(&mut self, id: Identity) {
        let Some(leaving) = self.workers.get(&id) else { return };
        let Some(rise) = leaving.activity.newest_rise() else { return };
        let Some(group) = leaving.key().and_then(|key| self.groups.get(&key)) else { return };
        let mut found = Vec::new();
        for &(_, other) in &group.live {
            if let Some(worker) = self.workers.get(&other).filter(|it| it.rare().witness.is_none())
                && let Some(witness) = witness(worker, leaving, rise, self.now, &self.rules)
            {
                found.push((other, witness));
            }
        }
        for (other, witness) in found {
            if let Some(worker) = self.workers.get_mut(&other) {
                worker.rare_mut().witness = Some(witness);
            }
        }
    }
}

impl Worker {
    /// Whether it is a worker of its own: a launcher is one with the worker that it launched, and
    /// those that a worker spread itself over are one with it.
    pub(crate) fn counts(&self) -> bool {
        !self.launcher && self.rare().part_of.is_none()
    }
}

/// A session has few workers that are remembered, so that a list is smaller than a set.
fn unlist(index: &mut Index<Arc<str>, Few<Identity>>, key: &Arc<str>, id: Identity) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(|it| *it == id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
