//! Who only launched a worker, passed through, or is a part of one.

use super::{
    Roster, Subject,
    attribution::{self, Origin},
    group::Group,
    worker::{Link, Moment, Survived, Worker},
};
use crate::model::{Exit, Identity, ParentSource, Source, Spawn, StdinPeer, StdinState};

/// Who ends by itself so shortly after it forked its workers, and all of them, only passed through:
/// a shell that put one in the background, a double fork, ns.
const MOMENTS: u64 = 2_000_000_000;
/// Two of one session that were born so shortly after one another come from a race, ns. Three
/// commands at once of hermes-agent 0.15.2 to 0.19.0: 0 to 0.1 s.
const RACE: u64 = 3_000_000_000;
/// The same where the older one stays, which no restart leaves. A command right behind
/// `session.create` in hermes-agent 0.19.0 is as far ahead of the session's own worker as it takes
/// to build an agent, ns: 3.7 to 4.5 s, and 11.4 s on a machine with a load of ten a processor.
const RACE_OLDER_STAYS: u64 = 15_000_000_000;
/// One that lived for less was ended before it was ready, ns. What these versions end at the close
/// had lived for 1.9 to 3.5 s, a second of which was the driver's pause, and its call was answered
/// after 0.8 s at the earliest; a gateway that notices its race ends it in the same call.
const READY: u64 = 1_000_000_000;
/// What happened so close together to different processes may be recorded in either order, ns: the
/// kernel's queues are one a processor.
const AT_ONCE: u64 = 50_000_000;
/// Of more workers of one session that ended at once, none was one of a pair.
const PAIRS: usize = 16;

impl Roster {
    /// Who uses a new worker. What was recorded before launchers were is judged by its forker.
    pub(super) fn origin_of(&self, spawn: &Spawn) -> Origin {
        if self.rules.sees_use {
            attribution::origin(spawn)
        } else {
            Origin { gateway: attribution::gateway_of(spawn), ..Origin::default() }
        }
    }

    /// Lists a worker under what launched it. One that launched several is no launcher: it is the
    /// gateway of all of them.
    pub(super) fn note_launchers(&mut self, id: Identity, spawn: &Spawn) {
        let Some(worker) = self.workers.get(&id) else { return };
        let launchers = worker.rare().launchers.clone();
        let Some(nearest) = launchers.first().copied() else { return };
        let others: Vec<Identity> = self
            .launched
            .get(&nearest)
            .into_iter()
            .flatten()
            .filter(|other| **other != id)
            .copied()
            .collect();
        let parent = spawn.parent.as_ref().filter(|parent| parent.process.identity() == nearest);
        if let Some(parent) = parent.filter(|_| !others.is_empty()) {
            let link = Link { process: parent.process.clone().into(), how: parent.how };
            for other in others.into_iter().chain([id]) {
                self.forget_launchers(other);
                self.hand_over(other, Some(link.clone()));
            }
            return;
        }
        for launcher in launchers {
            self.launched.entry(launcher).or_default().insert(id);
        }
    }

    /// Whether something only launched a worker, which is one with it.
    pub(super) fn is_launched(&self, id: Identity) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let above = worker.above.first().and_then(|above| self.workers.get(above));
        !worker.rare().launchers.is_empty() || above.is_some_and(|above| above.launcher)
    }

    pub(super) fn forget_launchers(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Some(rare) = &mut worker.rare {
            rare.launchers_rss_kib = None;
        }
        if worker.rare().launchers.is_empty() {
            return;
        }
        for launcher in std::mem::take(&mut worker.rare_mut().launchers) {
            if let Some(launched) = self.launched.get_mut(&launcher) {
                launched.remove(&id);
                if launched.is_empty() {
                    self.launched.remove(&launcher);
                }
            }
        }
    }

    /// What launched workers ended. One that ended at once did not wait for the worker.
    pub(super) fn launcher_ended(&mut self, launcher: Identity, end: Moment) {
        for id in self.launched.get(&launcher).cloned().unwrap_or_default() {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let waited = end.at.saturating_sub(worker.birth.at) > MOMENTS;
            if waited && worker.rare().launcher_exit.is_none() {
                worker.rare_mut().launcher_exit = Some(end);
                self.touch(Subject::Worker(id));
            }
        }
    }

    /// A gateway that ended by itself in the moments after it forked all its workers only passed
    /// through: its own forker is their gateway, or none is known.
    pub(super) fn passed_through(&mut self, exit: &Exit, at: u64) {
        if !self.rules.sees_use || exit.source != Source::Kernel || exit.code != Some(0) {
            return;
        }
        let Some(gateway) = self.gateways.get(&exit.identity()) else { return };
        let first = gateway.births.first().map(|(birth, _)| birth);
        if first.is_none_or(|first| at.saturating_sub(first) > MOMENTS) {
            return;
        }
        let forker = gateway.forker.clone();
        let passed: Vec<Identity> = gateway.births.iter().map(|(_, id)| id).collect();
        for id in passed {
            self.hand_over(id, forker.clone());
        }
    }

    /// Whoever holds the stdin of a worker whose gateway is not known uses it.
    pub(super) fn stdin_is_held(&mut self, id: Identity, stdin: StdinPeer) {
        if stdin.state != StdinState::Held {
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let holds = |link: &Link| Some(link.process.identity()) == stdin.holder;
        if worker.rare().candidate.as_ref().is_some_and(holds)
            && let Some(link) = worker.rare_mut().candidate.take()
        {
            self.hand_over(id, Some(link));
        }
    }

    /// Gives a worker another gateway.
    fn hand_over(&mut self, id: Identity, link: Option<Link>) {
        self.dismiss(id, false);
        let link = link.map(|link| Link { process: self.shared(link.process), how: link.how });
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.gateway = link;
            if worker.gateway.as_ref().is_some_and(|link| link.how == ParentSource::Proc) {
                worker.surety = worker.surety.min(crate::model::Confidence::Strong);
            }
        }
        self.enlist(id);
        if self.workers.get(&id).is_some_and(|worker| !worker.is_live()) {
            self.life_changed(id);
        }
    }

    /// A worker that forked two live ones with its own key is the worker itself, and they are parts
    /// of it (Node.js's cluster, prefork servers, zygotes). Whether `parent` is one now.
    pub(super) fn spreads(&mut self, parent: Identity, child: Identity) -> bool {
        if !self.rules.sees_use {
            return false;
        }
        let same = |id: &Identity| {
            let (child, parent) = (self.workers.get(id), self.workers.get(&parent));
            child.zip(parent).is_some_and(|(child, parent)| {
                child.is_live()
                    && child.above.first() == Some(&parent.id)
                    && attribution::launched(parent, child)
            })
        };
        let session = self.workers.get(&parent).and_then(|worker| worker.session.as_ref());
        let all = session.and_then(|session| self.by_session.get(session)).into_iter().flatten();
        let mut parts: Vec<Identity> =
            all.filter(|id| **id != child && same(id)).copied().collect();
        let already = self.workers.get(&parent).is_some_and(|worker| {
            !worker.launcher && worker.rare().part_of.is_none() && worker.spread
        });
        if parts.is_empty() && !already {
            return false;
        }
        parts.push(child);
        for part in parts {
            self.dismiss(part, false);
            if let Some(worker) = self.workers.get_mut(&part) {
                worker.rare_mut().part_of = Some(parent);
            }
        }
        let step_back = self.workers.get_mut(&parent).is_some_and(|worker| {
            worker.spread = true;
            std::mem::take(&mut worker.launcher)
        });
        if step_back {
            self.enlist(parent);
        }
        self.touch_around(parent);
        true
    }

    /// What a worker spread itself over is on its own once that worker has ended; what it launched
    /// has lost its launcher.
    pub(super) fn release(&mut self, id: Identity, end: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (spread, launcher) = (std::mem::take(&mut worker.spread), worker.launcher);
        if !self.rules.sees_use || !(spread || launcher) {
            return;
        }
        let session = worker.session.clone();
        let all = session.and_then(|session| self.by_session.get(&session).map(|ids| ids.to_vec()));
        let parts = if spread { self.parts_of(id) } else { Vec::new() };
        for other in all.into_iter().flatten().chain(parts) {
            let Some(worker) = self.workers.get_mut(&other) else { continue };
            if worker.rare().part_of == Some(id) {
                worker.rare_mut().part_of = None;
                self.enlist(other);
            } else if launcher && worker.above.first() == Some(&id) {
                worker.rare_mut().launcher_exit.get_or_insert(end);
                self.touch(Subject::Worker(other));
            }
        }
    }

    /// Parts are listed nowhere: there are few workers that spread themselves.
    fn parts_of(&self, id: Identity) -> Vec<Identity> {
        let parts = self.workers.values().filter(|it| it.rare().part_of == Some(id));
        let mut parts: Vec<Identity> = parts.map(|it| it.id).collect();
        parts.sort_unstable();
        parts
    }

    /// Judges anew what a session's group left alone, after one of it was spawned, ended or became
    /// something else.
    pub(super) fn leave_alone(&mut self, id: Identity) {
        let Some(key) = self.workers.get(&id).and_then(Worker::key) else { return };
        let Some(group) = self.groups.get(&key) else { return };
        let &[(_, stays)] = &*group.live else { return };
        let survived = self.survived(group, stays);
        let Some(stays) = self.workers.get_mut(&stays) else { return };
        if survived.is_some() || stays.rare().survived.is_some() {
            stays.rare_mut().survived = survived;
            self.touch(Subject::Group(key));
        }
    }

    /// Whom the only live worker of a group survived: one that was born with it, that their gateway
    /// ended, and after whose end nothing was spawned. Ends as close together as `AT_ONCE` have no
    /// order.
    fn survived(&self, group: &Group, stays: Identity) -> Option<Survived> {
        let (last_end, _) = group.ended.last()?;
        let since = last_end.saturating_sub(2 * AT_ONCE);
        let lately = || group.ended.within(since..).filter_map(|(_, id)| self.workers.get(&id));
        // So many are no race.
        if lately().count() > PAIRS {
            return None;
        }
        let stays = self.workers.get(&stays)?;
        let pairs = lately().filter(|ended| {
            let end = ended.exit().map_or(0, |end| end.at);
            let before = end.saturating_sub(AT_ONCE);
            end.saturating_add(AT_ONCE) >= last_end
                && !lately().any(|other| other.id != ended.id && other.birth.at >= before)
                && self.were_a_pair(ended, stays)
        });
        let ended = pairs.min_by_key(|ended| (ended.birth.at, ended.id))?;
        let served = ended.served(self.now, &self.rules);
        let rise = ended.activity.newest_rise();
        Some(Survived {
            id: ended.id,
            spawn_seq: ended.birth.seq,
            end: ended.exit()?,
            preferred: stays.birth.at <= ended.birth.at
                && served.is_some_and(|served| served.exact)
                && rise.is_some_and(|rise| rise.from >= stays.birth.at),
        })
    }

    /// Whether two workers of one session come from a race that their gateway ended by ending one
    /// of them, in which the other one may have been lost.
    fn were_a_pair(&self, ended: &Worker, stays: &Worker) -> bool {
        let Some(end) = ended.exit() else { return false };
        let by_gateway = match ended.rare().signalled_by {
            Some(sender) => Some(sender) == ended.gateway_id(),
            None => ended.exited_well(),
        };
        let older_stays = stays.birth.at < ended.birth.at;
        let race = if older_stays { RACE_OLDER_STAYS } else { RACE };
        let ready =
            ended.birth.at <= stays.birth.at || end.at.saturating_sub(ended.birth.at) >= READY;
        let beside = ended.overlap(stays, self.now);
        by_gateway
            && ready
            && stays.birth.at.abs_diff(ended.birth.at) <= race
            && (1..self.rules.overlap).contains(&beside)
            && stays.model == ended.model
            && stays.uid == ended.uid
    }
}
