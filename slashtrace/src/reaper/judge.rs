use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Decision, Policy};
use crate::{
    model::{
        Action, Body, Confidence, Finding, FindingState, FindingWorker, Identity, Kind, Mode,
        Outcome, Phase, Record, Source, Step, Terminal,
    },
    roster::{Roster, Worker},
};

/// The budget counts decisions within this time.
const WINDOW_NS: u64 = 60_000_000_000;
/// A breaker closes by itself after this long; if there are still too many, it opens again.
const RESUME_NS: u64 = 900_000_000_000;
/// What was refused is judged again after this long, although nothing new was found.
const AGAIN_NS: u64 = 300_000_000_000;

/// Chooses which workers are to be ended, from records alone: no clock, no /proc.
///
/// Chosen is a live worker that an open finding of a triggering kind, sure enough, shows to be
/// unused, and that is old enough. It is chosen once: while it is being ended, nobody chooses it
/// again, and one that was refused or that survived waits until the finding shows it anew (it was
/// opened again, or is surer) or five minutes have passed. In `dry-run` one that would be ended
/// stays chosen as long as the finding is open.
///
/// Each user has a budget and a circuit breaker of their own, so that nobody who can start processes
/// can keep other users' workers from being ended. When more workers of a user want to be ended than
/// that user's budget has left, none of them is, and no other of theirs either, until fifteen minutes
/// have passed or [`Self::resume`]. After the latter, those that opened it are ended at the pace of
/// the budget; after the former nobody agreed to them, and if they are still too many the breaker
/// opens again.
///
/// It has to be given every record in order, those of the reaper's own actions, too.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    /// Open findings of kinds that are triggers, by id.
    findings: BTreeMap<String, Open>,
    /// Workers that these show to be unused, and those that are being ended.
    named: BTreeMap<Identity, Named>,
    /// By real user id, the owners of those that are named.
    users: BTreeMap<u32, User>,
    /// That breakers opened or closed, until it was told.
    told: Vec<Action>,
}

/// What one user's workers may cost, and whether it was too much.
#[derive(Debug, Default)]
struct User {
    /// Those that may be chosen, by from when on.
    due: BTreeSet<(u64, Identity)>,
    /// When decisions of the last minute were made.
    decided: VecDeque<u64>,
    /// While the breaker is open: when it closes by itself.
    open_until: Option<u64>,
    /// Who opened it last: `resume` agrees to these.
    storm: BTreeSet<Identity>,
    agreed: BTreeSet<Identity>,
}

impl User {
    fn forget_decisions(&mut self, now_ns: u64) {
        while self.decided.front().is_some_and(|at| at.saturating_add(WINDOW_NS) <= now_ns) {
            self.decided.pop_front();
        }
    }

    fn is_nobody(&self) -> bool {
        self.due.is_empty() && self.decided.is_empty() && self.open_until.is_none()
    }

    /// When one of theirs may be chosen, or the breaker closes.
    fn next_deadline(&self, budget: usize) -> Option<u64> {
        if self.open_until.is_some() {
            return self.open_until;
        }
        // One that was agreed to waits for the budget without opening the breaker.
        let full = self.decided.len() >= budget;
        let free = self.decided.front().map_or(u64::MAX, |at| at.saturating_add(WINDOW_NS));
        let free = if full { free } else { 0 };
        let from = |&(from, id): &(u64, Identity)| {
            if self.agreed.contains(&id) { from.max(free) } else { from }
        };
        if self.agreed.is_empty() || !full {
            return self.due.first().map(from);
        }
        self.due.iter().map(from).min()
    }
}

/// What is kept of a worker beside what the roster knows.
#[derive(Debug, Default)]
struct Named {
    under_way: bool,
    /// It was found to have ended, and the record of its end is on its way.
    ended: bool,
    /// The findings that show it to be unused and justify ending it.
    findings: BTreeSet<String>,
    /// By finding: what is not to be chosen again.
    held: BTreeMap<String, Held>,
    /// Its owner, in whose `due` it stands, and where.
    queued: Option<(u32, u64)>,
}

/// Why a worker is not chosen again for a finding.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// Until then, ns of the boot clock.
    Until(u64),
    /// As long as the finding shows it.
    WhileOpen,
}

#[derive(Debug)]
struct Open {
    kind: Kind,
    confidence: Confidence,
    terminal: Option<Terminal>,
    seq: u64,
    gateway: Option<Identity>,
    unused: BTreeSet<Identity>,
}

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            findings: BTreeMap::new(),
            named: BTreeMap::new(),
            users: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// Takes one record, which the roster has just folded in.
    pub fn observe(&mut self, record: &Record, roster: &Roster) {
        for id in roster.changed_workers() {
            if is_there(roster, id) {
                self.refresh(id, roster);
            } else {
                self.forget(id);
            }
        }
        match &record.body {
            Body::Finding(finding) => self.finding(record.seq, finding, roster),
            Body::Action(action) => self.action(record.boottime_ns, action, roster),
            _ => {}
        }
    }

    /// Whether an open finding still justifies ending this worker.
    pub fn holds(&self, worker: &Identity, roster: &Roster) -> bool {
        is_there(roster, *worker)
            && self.named.get(worker).is_some_and(|named| {
                let mut open = named.findings.iter().filter_map(|id| self.findings.get(id));
                open.any(|open| self.justifies(open, *worker, roster))
            })
    }

    /// Who is to be ended now, oldest first. Nobody in `observe`, and nobody of a user whose breaker
    /// is open.
    pub fn decide(&mut self, now_ns: u64, roster: &Roster) -> Vec<Decision> {
        if self.policy.mode == Mode::Observe {
            return Vec::new();
        }
        let is_due = |user: &User| user.due.first().is_some_and(|(from, _)| *from <= now_ns);
        let closes = |user: &User| user.open_until.is_some_and(|until| until <= now_ns);
        let users = self.users.iter().filter(|(_, user)| is_due(user) || closes(user));
        let users: Vec<u32> = users.map(|(uid, _)| *uid).collect();
        let mut chosen = Vec::new();
        for uid in users {
            self.close_breaker(uid, now_ns);
            chosen.extend(self.decide_for(uid, now_ns, roster));
        }
        self.users.retain(|_, user| {
            user.forget_decisions(now_ns);
            !user.is_nobody()
        });
        chosen.sort_by_key(|decision| (decision.worker.start_ns, decision.worker.pid));
        chosen
    }

    fn decide_for(&mut self, uid: u32, now_ns: u64, roster: &Roster) -> Vec<Decision> {
        let Some(user) = self.users.get_mut(&uid).filter(|user| user.open_until.is_none()) else {
            return Vec::new();
        };
        user.forget_decisions(now_ns);
        let left = (self.policy.budget_per_minute as usize).saturating_sub(user.decided.len());
        let user = &self.users[&uid];
        let ready = user.due.iter().take_while(|(from, _)| *from <= now_ns).map(|(_, id)| *id);
        let mut due: Vec<(Identity, String)> = ready
            .filter_map(|id| {
                let candidates = self.candidates(id, roster);
                let (finding, _) = candidates.into_iter().find(|(_, from)| *from <= now_ns)?;
                Some((id, finding.to_owned()))
            })
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        due.sort_by_key(|(id, _)| (id.start_ns, id.pid));
        let agreed = |id: &Identity| user.agreed.contains(id);
        if due.iter().filter(|(id, _)| !agreed(id)).count() > left {
            self.open_breaker(uid, &due, now_ns);
            return Vec::new();
        }
        // Those that nobody agreed to in advance are within the budget; the others wait for theirs.
        due.sort_by_key(|(id, _)| agreed(id));
        due.truncate(left);
        due.iter().filter_map(|(id, finding)| self.choose(*id, finding, now_ns, roster)).collect()
    }

    /// The earliest moment (ns of the boot clock) at which [`Self::decide`] may have something to
    /// say; it may have passed already.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.policy.mode == Mode::Observe {
            return None;
        }
        let budget = self.policy.budget_per_minute as usize;
        self.users.values().filter_map(|user| user.next_deadline(budget)).min()
    }

    /// The actions that tell of breakers, once after each opened or closed.
    pub fn take_told(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.told)
    }

    /// Whether some user's breaker is open.
    pub fn is_stopped(&self) -> bool {
        self.users.values().any(|user| user.open_until.is_some())
    }

    /// Closes every breaker, by the will of a person who saw whom it is about: those that opened it
    /// are ended at the pace of the budget, as long as their findings hold.
    pub fn resume(&mut self) {
        for (uid, user) in &mut self.users {
            if user.open_until.take().is_some() {
                user.agreed = std::mem::take(&mut user.storm);
                self.told.push(resumed(*uid, "somebody asked for it"));
            }
        }
    }

    fn close_breaker(&mut self, uid: u32, now_ns: u64) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        if user.open_until.is_some_and(|until| until <= now_ns) {
            user.open_until = None;
            user.storm.clear();
            let why = format!("{} minutes have passed", RESUME_NS / 60_000_000_000);
            self.told.push(resumed(uid, &why));
        }
    }

    /// What it judges by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn justifies(&self, open: &Open, id: Identity, roster: &Roster) -> bool {
        let may_be = |worker: &Worker| {
            let gateway = open.gateway.or(worker.gateway_id());
            worker.was_seen_again() && self.policy.scope.has(gateway, worker.session.as_deref())
        };
        open.unused.contains(&id)
            && self.policy.triggers_on(open.kind, open.confidence)
            && roster.worker(id).is_some_and(may_be)
    }

    /// The findings for which a worker may be chosen, each with from when on; the surest first.
    fn candidates(&self, id: Identity, roster: &Roster) -> Vec<(&str, u64)> {
        let Some(named) = self.named.get(&id).filter(|it| !it.under_way && !it.ended) else {
            return Vec::new();
        };
        let Some(worker) = roster.worker(id).filter(|_| is_there(roster, id)) else {
            return Vec::new();
        };
        let born_ns =
            if worker.birth.inherited { id.start_ns } else { worker.seen_ns.max(id.start_ns) };
        let grown = born_ns.saturating_add(ns(self.policy.min_age));
        let open = named.findings.iter().filter_map(|id| Some((id, self.findings.get(id)?)));
        let mut open: Vec<(&String, &Open)> =
            open.filter(|(_, open)| self.justifies(open, id, roster)).collect();
        open.sort_by_key(|(_, open)| (std::cmp::Reverse(open.confidence), open.kind));
        open.into_iter()
            .filter_map(|(finding, _)| match named.held.get(finding) {
                Some(Held::WhileOpen) => None,
                Some(Held::Until(until)) => Some((finding.as_str(), grown.max(*until))),
                None => Some((finding.as_str(), grown)),
            })
            .collect()
    }

    /// Puts a worker where it belongs in the queue of those that may be chosen.
    fn refresh(&mut self, id: Identity, roster: &Roster) {
        if !self.named.contains_key(&id) {
            return;
        }
        let from = self.candidates(id, roster).into_iter().map(|(_, from)| from).min();
        let Some(named) = self.named.get_mut(&id) else { return };
        let uid = roster.worker(id).map(|worker| worker.uid);
        let queued = uid.zip(from);
        let before = std::mem::replace(&mut named.queued, queued);
        let nothing = named.findings.is_empty() && named.held.is_empty() && !named.under_way;
        if before != queued {
            if let Some((uid, before)) = before
                && let Some(user) = self.users.get_mut(&uid)
            {
                user.due.remove(&(before, id));
            }
            if let Some((uid, from)) = queued {
                self.users.entry(uid).or_default().due.insert((from, id));
            }
        }
        if nothing {
            self.named.remove(&id);
        }
    }

    fn choose(
        &mut self,
        id: Identity,
        finding: &str,
        now_ns: u64,
        roster: &Roster,
    ) -> Option<Decision> {
        let open = self.findings.get(finding)?;
        let worker = roster.worker(id)?;
        // A strong one says that nobody is connected.
        let beside = open.kind == Kind::Abandoned && open.confidence < Confidence::Strong;
        let other_clients = if beside { roster.other_clients(worker) } else { BTreeSet::new() };
        let decision = Decision {
            worker: id,
            gateway: open.gateway.or(worker.gateway_id()),
            uid: worker.uid,
            session: worker.session.as_deref().map(str::to_owned),
            argv_truncated: worker.argv_truncated,
            finding: finding.to_owned(),
            kind: open.kind,
            confidence: open.confidence,
            terminal: open.terminal,
            seen_exec: worker.birth.source == Source::Kernel && !worker.birth.inherited,
            // While it starts it reads for itself.
            syscr: worker.served(now_ns, &roster.rules).and_then(|_| worker.usage().syscr()),
            // What was not read before is asked for now.
            output_unread: worker.usage().is_unread() || worker.usage().is_over_budget(),
            other_clients,
            ways: worker.ways(&roster.rules, now_ns),
            seq: open.seq,
            descendants: roster.family(id).into_iter().flatten().copied().collect(),
            gateway_of: roster.forked_by(id),
        };
        self.named.entry(id).or_default().under_way = true;
        let user = self.users.entry(worker.uid).or_default();
        user.decided.push_back(now_ns);
        user.agreed.remove(&id);
        self.refresh(id, roster);
        Some(decision)
    }

    fn open_breaker(&mut self, uid: u32, due: &[(Identity, String)], now_ns: u64) {
        let findings: BTreeSet<&str> = due.iter().map(|(_, finding)| finding.as_str()).collect();
        let because = findings.iter().filter_map(|id| self.findings.get(*id)).map(|open| open.seq);
        let mut because: Vec<u64> = because.collect();
        because.sort_unstable();
        because.dedup();
        because.truncate(64);
        let user = self.users.entry(uid).or_default();
        user.open_until = Some(now_ns.saturating_add(RESUME_NS));
        user.storm = due.iter().map(|(id, _)| *id).collect();
        let detail = format!(
            "{} workers of user {uid} are to be ended at once; the budget is {} a minute, of which \
             {} are used: none of them is, and no other of that user, for {} minutes",
            due.len(),
            self.policy.budget_per_minute,
            user.decided.len(),
            RESUME_NS / 60_000_000_000,
        );
        self.told.push(about_breaker(uid, Step::Stop, because, detail));
    }

    fn forget(&mut self, id: Identity) {
        let Some(named) = self.named.remove(&id) else { return };
        for (uid, user) in &mut self.users {
            if let Some((_, from)) = named.queued.filter(|(owner, _)| owner == uid) {
                user.due.remove(&(from, id));
            }
            user.agreed.remove(&id);
            user.storm.remove(&id);
        }
    }

    fn finding(&mut self, seq: u64, finding: &Finding, roster: &Roster) {
        let unused: BTreeSet<Identity> = if finding.state == FindingState::Closed {
            BTreeSet::new()
        } else {
            let unused = finding.workers.iter().filter(|worker| worker.unused);
            unused.map(FindingWorker::identity).collect()
        };
        let before = self.findings.remove(&finding.id);
        if unused.is_empty() && before.is_none() {
            return;
        }
        let surer = before.as_ref().is_some_and(|before| finding.confidence > before.confidence);
        let shown = before.map(|before| before.unused).unwrap_or_default();
        let named: BTreeSet<Identity> = unused.union(&shown).copied().collect();
        if finding.state != FindingState::Closed {
            let gateway = finding.gateway.as_ref();
            self.findings.insert(
                finding.id.clone(),
                Open {
                    kind: finding.kind,
                    confidence: finding.confidence,
                    terminal: finding.terminal,
                    seq,
                    gateway: gateway.map(|it| Identity { pid: it.pid, start_ns: it.start_ns }),
                    unused: unused.clone(),
                },
            );
        }
        for id in named {
            let worker = self.named.entry(id).or_default();
            if unused.contains(&id) {
                worker.findings.insert(finding.id.clone());
            } else {
                worker.findings.remove(&finding.id);
            }
            // News of a worker: it is shown to be unused now and was not, or the other way round.
            if surer || unused.contains(&id) != shown.contains(&id) {
                worker.held.remove(&finding.id);
            }
            self.refresh(id, roster);
        }
    }

    fn action(&mut self, at_ns: u64, action: &Action, roster: &Roster) {
        let Some(id) = action.worker else { return };
        let (Some(worker), Some(finding)) = (self.named.get_mut(&id), &action.finding) else {
            return;
        };
        let held = match (action.step, action.outcome) {
            (Step::WouldEnd, _) => Held::WhileOpen,
            // It is still there to be chosen: the kernel said no, a check did, or it would not end.
            (Step::Refuse | Step::Result, _)
            | (Step::Terminate, Some(Outcome::Failed | Outcome::Gone)) => {
                Held::Until(at_ns.saturating_add(AGAIN_NS))
            }
            _ => return,
        };
        worker.under_way = false;
        worker.ended = matches!(action.outcome, Some(Outcome::Exited | Outcome::Gone));
        worker.held.insert(finding.clone(), held);
        self.refresh(id, roster);
    }
}

fn resumed(uid: u32, why: &str) -> Action {
    let detail = format!("workers of user {uid} may be ended again: {why}");
    about_breaker(uid, Step::Resume, Vec::new(), detail)
}

fn about_breaker(uid: u32, step: Step, because: Vec<u64>, detail: String) -> Action {
    Action {
        worker: None,
        uid: Some(uid),
        step,
        phase: Phase::After,
        finding: None,
        kind: None,
        confidence: None,
        because,
        outcome: None,
        took_ms: None,
        descendants: Vec::new(),
        detail,
    }
}

/// Whether a worker is there to be ended: it has not ended and is still a worker.
fn is_there(roster: &Roster, id: Identity) -> bool {
    roster.worker(id).is_some_and(|worker| worker.exit().is_none() && worker.left().is_none())
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
