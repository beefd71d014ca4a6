use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Decision, Policy};
use crate::model::{
    Action, Body, Confidence, Exec, Finding, FindingState, FindingWorker, Identity, Kind, Mode,
    Outcome, Phase, Record, Role, Spawn, Step, Terminal,
};

/// The budget counts decisions within this time.
const WINDOW_NS: u64 = 60_000_000_000;
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
/// The circuit breaker: when more workers want to be ended than the budget has left, none of them
/// is, and no other either, until [`Self::resume`]. Those that opened it are then ended at the pace
/// of the budget; anyone new that exceeds it opens it again.
///
/// It has to be given every record in order, those of the reaper's own actions, too.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    workers: BTreeMap<Identity, Worker>,
    /// Live processes below workers, with the worker.
    descendants: BTreeMap<Identity, Identity>,
    /// Open findings of kinds that are triggers, by id.
    findings: BTreeMap<String, Open>,
    /// When decisions of the last minute were made.
    decided: VecDeque<u64>,
    /// Whether the breaker is open.
    open: bool,
    /// That it opened, until it was told.
    stop: Option<Action>,
    /// Who opened it last: `resume` agrees to these.
    storm: BTreeSet<Identity>,
    agreed: BTreeSet<Identity>,
}

#[derive(Debug)]
struct Worker {
    born_ns: u64,
    parent: Option<Identity>,
    /// Its parent, unless that may only have adopted it.
    gateway: Option<Identity>,
    uid: u32,
    session: Option<String>,
    argv_truncated: bool,
    under_way: bool,
    /// By finding: what is not to be chosen again.
    held: BTreeMap<String, Held>,
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

/// A worker that may be chosen from a moment on, and the finding that justifies it.
struct Candidate<'a> {
    id: Identity,
    finding: &'a str,
    from_ns: u64,
}

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            workers: BTreeMap::new(),
            descendants: BTreeMap::new(),
            findings: BTreeMap::new(),
            decided: VecDeque::new(),
            open: false,
            stop: None,
            storm: BTreeSet::new(),
            agreed: BTreeSet::new(),
        }
    }

    /// Takes one record.
    pub fn observe(&mut self, record: &Record) {
        match &record.body {
            Body::Spawn(spawn) => self.spawn(record.boottime_ns, spawn),
            Body::Exec(exec) => self.exec(exec),
            Body::Exit(exit) => self.forget(&exit.identity()),
            Body::Sample(sample) if sample.state == 'X' => self.forget(&sample.identity()),
            Body::Finding(finding) => self.finding(record.seq, finding),
            Body::Action(action) => self.action(record.boottime_ns, action),
            _ => {}
        }
    }

    /// Whether an open finding still justifies ending this worker.
    pub fn holds(&self, worker: &Identity) -> bool {
        self.workers.contains_key(worker)
            && self.findings.values().any(|open| self.justifies(open, worker))
    }

    /// Who is to be ended now, oldest first. Nobody in `observe`, nor while the breaker is open.
    pub fn decide(&mut self, now_ns: u64) -> Vec<Decision> {
        if self.policy.mode == Mode::Observe || self.open {
            return Vec::new();
        }
        while self.decided.front().is_some_and(|at| at.saturating_add(WINDOW_NS) <= now_ns) {
            self.decided.pop_front();
        }
        let candidates = self.candidates().into_iter().filter(|it| it.from_ns <= now_ns);
        let mut once = BTreeSet::new();
        let mut due: Vec<(Identity, String)> = candidates
            .filter(|candidate| once.insert(candidate.id))
            .map(|candidate| (candidate.id, candidate.finding.to_owned()))
            .collect();
        due.sort_by_key(|(id, _)| (id.start_ns, id.pid));
        let left = (self.policy.budget_per_minute as usize).saturating_sub(self.decided.len());
        let unforeseen = due.iter().filter(|(id, _)| !self.agreed.contains(id)).count();
        if unforeseen > left {
            self.open_breaker(&due);
            return Vec::new();
        }
        // Those that nobody agreed to in advance are within the budget; the others wait for theirs.
        due.sort_by_key(|(id, _)| self.agreed.contains(id));
        due.truncate(left);
        due.iter().filter_map(|(id, finding)| self.choose(*id, finding, now_ns)).collect()
    }

    /// The earliest moment (ns of the boot clock) at which [`Self::decide`] may have something to
    /// say; it may have passed already.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.policy.mode == Mode::Observe || self.open {
            return None;
        }
        // One that was agreed to waits for the budget without opening the breaker.
        let full = self.decided.len() >= self.policy.budget_per_minute as usize;
        let free = self.decided.front().map_or(u64::MAX, |at| at.saturating_add(WINDOW_NS));
        let free = if full { free } else { 0 };
        let from = |it: &Candidate<'_>| {
            if self.agreed.contains(&it.id) { it.from_ns.max(free) } else { it.from_ns }
        };
        self.candidates().iter().map(from).min()
    }

    /// The action that tells of the breaker, once after it opened.
    pub fn take_stop(&mut self) -> Option<Action> {
        self.stop.take()
    }

    /// Whether the breaker is open.
    pub fn is_stopped(&self) -> bool {
        self.open
    }

    /// Closes the breaker, by the will of a person who saw whom it is about: those that opened it
    /// are ended at the pace of the budget, as long as their findings hold.
    pub fn resume(&mut self) {
        if self.open {
            self.open = false;
            self.agreed = std::mem::take(&mut self.storm);
        }
    }

    /// What it judges by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn justifies(&self, open: &Open, worker: &Identity) -> bool {
        let in_scope = |known: &Worker| {
            let gateway = open.gateway.or(known.gateway);
            self.policy.scope.has(gateway, known.session.as_deref())
        };
        open.unused.contains(worker)
            && self.policy.triggers_on(open.kind, open.confidence)
            && self.workers.get(worker).is_some_and(in_scope)
    }

    /// Pairs of worker and finding; of two findings about a worker the surer one comes first.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut findings: Vec<(&String, &Open)> = self.findings.iter().collect();
        findings.sort_by_key(|(_, open)| (std::cmp::Reverse(open.confidence), open.kind));
        let min_age = ns(self.policy.min_age);
        let mut candidates = Vec::new();
        for (finding, open) in findings {
            for id in open.unused.iter().filter(|id| self.justifies(open, id)) {
                let Some(worker) = self.workers.get(id).filter(|it| !it.under_way) else {
                    continue;
                };
                let grown = worker.born_ns.saturating_add(min_age);
                let from_ns = match worker.held.get(finding) {
                    Some(Held::WhileOpen) => continue,
                    Some(Held::Until(until)) => grown.max(*until),
                    None => grown,
                };
                candidates.push(Candidate { id: *id, finding, from_ns });
            }
        }
        candidates
    }

    fn choose(&mut self, id: Identity, finding: &str, now_ns: u64) -> Option<Decision> {
        let open = self.findings.get(finding)?;
        let below = |(descendant, of): (&Identity, &Identity)| (*of == id).then_some(*descendant);
        let forked = |(other, worker): (&Identity, &Worker)| {
            (worker.parent == Some(id) && *other != id).then_some(*other)
        };
        let descendants = self.descendants.iter().filter_map(below).collect();
        let gateway_of = self.workers.iter().filter_map(forked).collect();
        let worker = self.workers.get_mut(&id)?;
        worker.under_way = true;
        self.decided.push_back(now_ns);
        self.agreed.remove(&id);
        Some(Decision {
            worker: id,
            gateway: open.gateway.or(worker.gateway),
            uid: worker.uid,
            session: worker.session.clone(),
            argv_truncated: worker.argv_truncated,
            finding: finding.to_owned(),
            kind: open.kind,
            confidence: open.confidence,
            terminal: open.terminal,
            seq: open.seq,
            descendants,
            gateway_of,
        })
    }

    fn open_breaker(&mut self, due: &[(Identity, String)]) {
        self.open = true;
        self.storm = due.iter().map(|(id, _)| *id).collect();
        let findings: BTreeSet<&str> = due.iter().map(|(_, finding)| finding.as_str()).collect();
        let because = findings.iter().filter_map(|id| self.findings.get(*id)).map(|open| open.seq);
        let mut because: Vec<u64> = because.collect();
        because.sort_unstable();
        because.dedup();
        because.truncate(64);
        let detail = format!(
            "{} workers are to be ended at once; the budget is {} a minute, of which {} are used: \
             none of them is, and no other, until the reaper is resumed",
            due.len(),
            self.policy.budget_per_minute,
            self.decided.len(),
        );
        self.stop = Some(Action {
            worker: None,
            step: Step::Stop,
            phase: Phase::After,
            finding: None,
            kind: None,
            confidence: None,
            because,
            outcome: None,
            took_ms: None,
            descendants: Vec::new(),
            detail,
        });
    }

    fn spawn(&mut self, at_ns: u64, spawn: &Spawn) {
        let id = spawn.identity();
        self.descendants.remove(&id);
        match spawn.role {
            Role::Worker => {
                let parent = spawn.parent.as_ref();
                let born_ns =
                    if spawn.inherited { spawn.start_ns } else { at_ns.max(spawn.start_ns) };
                let before = self.workers.remove(&id);
                let worker = Worker {
                    born_ns,
                    parent: parent.map(|parent| parent.process.identity()),
                    gateway: parent.filter(|it| !it.reaper).map(|it| it.process.identity()),
                    uid: spawn.uid,
                    session: spawn.session.clone(),
                    argv_truncated: spawn.argv_truncated,
                    under_way: before.as_ref().is_some_and(|before| before.under_way),
                    held: before.map(|before| before.held).unwrap_or_default(),
                };
                self.workers.insert(id, worker);
            }
            Role::Descendant => {
                if let Some(worker) = spawn.worker {
                    self.descendants.insert(id, worker);
                }
            }
            Role::Gateway | Role::Ancestor => {}
        }
    }

    fn exec(&mut self, exec: &Exec) {
        if exec.role == Role::Worker && !exec.is_worker {
            self.forget_worker(&exec.identity());
        }
    }

    fn forget(&mut self, id: &Identity) {
        self.forget_worker(id);
        self.descendants.remove(id);
    }

    fn forget_worker(&mut self, id: &Identity) {
        self.workers.remove(id);
        self.agreed.remove(id);
        self.storm.remove(id);
    }

    fn finding(&mut self, seq: u64, finding: &Finding) {
        let unused: BTreeSet<Identity> = if finding.state == FindingState::Closed {
            BTreeSet::new()
        } else {
            let unused = finding.workers.iter().filter(|worker| worker.unused);
            unused.map(FindingWorker::identity).collect()
        };
        let before = self.findings.remove(&finding.id);
        let shown = before.as_ref().map(|before| &before.unused);
        let surer = before.as_ref().is_some_and(|before| finding.confidence > before.confidence);
        // News of a worker: it is shown to be unused now and was not, or the other way round.
        for id in unused.iter().chain(shown.into_iter().flatten()) {
            let still = unused.contains(id) && shown.is_some_and(|shown| shown.contains(id));
            if (surer || !still)
                && let Some(worker) = self.workers.get_mut(id)
            {
                worker.held.remove(&finding.id);
            }
        }
        if finding.state == FindingState::Closed {
            return;
        }
        let gateway = finding.gateway.as_ref();
        self.findings.insert(
            finding.id.clone(),
            Open {
                kind: finding.kind,
                confidence: finding.confidence,
                terminal: finding.terminal,
                seq,
                gateway: gateway.map(|it| Identity { pid: it.pid, start_ns: it.start_ns }),
                unused,
            },
        );
    }

    fn action(&mut self, at_ns: u64, action: &Action) {
        let Some(worker) = action.worker.and_then(|id| self.workers.get_mut(&id)) else { return };
        let Some(finding) = &action.finding else { return };
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
        worker.held.insert(finding.clone(), held);
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
