//! One rule a file: what it says in words, the rule as a function of what is known, its tests.
//! May touch: the roster, to read it.

mod abandoned;
mod accumulation;
mod duplicate_worker;
mod gateway_orphan;
mod launcher_orphan;
mod leftover_children;
mod lost_at_close;
mod lost_worker;
mod reaper_stopped;
mod respawn_churn;
mod spawn_per_call;
mod terminal_orphan;
mod unreachable;
mod zombie;

use super::{
    ledger::{Renewal, Said, weakest},
    surplus::Surpluses,
};
use crate::{
    model::{
        Confidence, FindingWorker, Forecast, GatewayRef, Identity, Kind, ParentSource, Terminal,
    },
    roster::{Group, GroupKey, Roster, Rules, Subject, Worker, span as time},
};

/// Something holds: everything of a finding but its place in its life.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) confidence: Confidence,
    pub(super) gateway: Option<GatewayRef>,
    pub(super) session: Option<String>,
    pub(super) workers: Vec<FindingWorker>,
    pub(super) processes: Vec<Identity>,
    pub(super) terminal: Option<Terminal>,
    pub(super) forecast: Option<Forecast>,
    pub(super) because: Vec<u64>,
    pub(super) text: String,
    pub(super) renewal: Renewal,
}

impl Verdict {
    /// A verdict about these workers, oldest first: as sure as their attribution, because of
    /// their spawns.
    fn about(workers: &[&Worker], text: String) -> Self {
        Self {
            confidence: weakest(workers.iter().map(|worker| worker.surety)),
            gateway: gateway(workers),
            session: session(workers),
            workers: workers.iter().map(|worker| worker.named()).collect(),
            processes: Vec::new(),
            terminal: None,
            forecast: None,
            because: workers.iter().map(|worker| worker.birth.seq).collect(),
            text,
            renewal: Renewal::Members,
        }
    }

    /// How many workers and processes it is about.
    pub(super) fn named(&self) -> usize {
        self.workers.len() + self.processes.len()
    }

    fn at_most(mut self, confidence: Confidence) -> Self {
        self.confidence = self.confidence.min(confidence);
        self
    }

    /// Marks its workers: it shows of each that nobody uses it.
    fn unused(mut self) -> Self {
        for worker in &mut self.workers {
            worker.unused = true;
        }
        self
    }

    /// Marks those of its workers, in order, of which it shows that.
    fn unused_where(mut self, unused: &[bool]) -> Self {
        for (worker, unused) in self.workers.iter_mut().zip(unused) {
            worker.unused = *unused;
        }
        self
    }

    fn because(mut self, seqs: impl IntoIterator<Item = u64>) -> Self {
        self.because.extend(seqs);
        self
    }
}

/// Whether something holds.
#[derive(Debug, Default)]
pub(super) enum Holds {
    #[default]
    No,
    /// As it was said last: nothing in it is worth saying again.
    AsSaid,
    Yes(Box<Verdict>),
}

/// What a rule says now, and when time alone may make it say something else.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) holds: Holds,
    pub(super) deadline: Option<u64>,
}

impl Judgement {
    /// As it was said, where that was so short a time ago and is about so many that others among
    /// them are no reason to say it again.
    fn paced(said: Option<Said>, now: u64) -> Option<Self> {
        let due = said?.paced_until();
        (due > now).then_some(Self { holds: Holds::AsSaid, deadline: Some(due) })
    }

    fn new(verdict: Option<Verdict>, deadline: Option<u64>) -> Self {
        Self { holds: verdict.map_or(Holds::No, |verdict| Holds::Yes(Box::new(verdict))), deadline }
    }
}

/// Judges one subject by every rule that is about such subjects.
pub(super) fn judge(
    roster: &Roster,
    surpluses: &mut Surpluses,
    subject: &Subject,
    said: impl Fn(Kind) -> Option<Said>,
) -> Vec<(Kind, Judgement)> {
    match subject {
        Subject::Group(key) => {
            let view = GroupView::of(roster, key);
            surpluses.set(key, (view.mature.len() as u64).saturating_sub(1), roster);
            vec![
                (Kind::SpawnPerCall, spawn_per_call::judge(&view)),
                (Kind::DuplicateWorker, duplicate_worker::judge(&view)),
                (Kind::LostWorker, lost_worker::judge(&view)),
                (Kind::LostAtClose, lost_at_close::judge(&view)),
                (Kind::RespawnChurn, respawn_churn::judge(&view, said(Kind::RespawnChurn))),
            ]
        }
        Subject::Gateway(id) => {
            surpluses.watch(*id, accumulation::LEAST, roster);
            let said = said(Kind::Accumulation);
            vec![
                (Kind::GatewayOrphan, gateway_orphan::judge(roster, *id)),
                (Kind::Abandoned, abandoned::judge(roster, *id)),
                (Kind::Accumulation, accumulation::judge(roster, surpluses, *id, said)),
            ]
        }
        Subject::Reaper(uid) => vec![(Kind::ReaperStopped, reaper_stopped::judge(*uid, roster))],
        Subject::Worker(id) => vec![
            (Kind::LauncherOrphan, launcher_orphan::judge(roster, *id)),
            (Kind::TerminalOrphan, terminal_orphan::judge(roster, *id)),
            (Kind::Unreachable, unreachable::judge(roster, *id)),
            (
                Kind::LeftoverChildren,
                leftover_children::judge(roster, *id, said(Kind::LeftoverChildren)),
            ),
            (Kind::Zombie, zombie::judge(roster, *id, said(Kind::Zombie))),
        ],
    }
}

/// A group as its rules look at it.
#[derive(Debug)]
pub(super) struct GroupView<'a> {
    roster: &'a Roster,
    rules: &'a Rules,
    now: u64,
    /// None once its last worker is forgotten.
    group: Option<&'a Group>,
    /// Live ones, oldest first.
    live: Vec<&'a Worker>,
    /// Live ones that are older than the overlap grace: each two of them overlap past it.
    mature: Vec<&'a Worker>,
}

impl<'a> GroupView<'a> {
    fn of(roster: &'a Roster, key: &GroupKey) -> Self {
        let group = roster.group(key);
        let ids = group.into_iter().flat_map(|group| &group.live);
        let live: Vec<&Worker> = ids.filter_map(|(_, id)| roster.worker(*id)).collect();
        let mature = live
            .iter()
            .filter(|worker| worker.matures_at(&roster.rules) <= roster.now)
            .copied()
            .collect();
        Self { roster, rules: &roster.rules, now: roster.now, group, live, mature }
    }

    /// When the next live worker grows older than the overlap grace.
    fn next_mature(&self) -> Option<u64> {
        let ages = self.live.iter().map(|worker| worker.matures_at(self.rules));
        ages.filter(|&at| at > self.now).min()
    }
}

/// Whether the calls of all these workers were counted exactly.
fn counted(workers: &[&Worker], view: &GroupView) -> bool {
    workers
        .iter()
        .all(|worker| worker.served(view.now, view.rules).is_some_and(|served| served.exact))
}

/// The gateway of workers that have the same one; known only as well as for the least known.
fn gateway(workers: &[&Worker]) -> Option<GatewayRef> {
    let rank = |how: ParentSource| match how {
        ParentSource::Fork => 0,
        ParentSource::Exec => 1,
        ParentSource::Proc => 2,
    };
    workers.iter().filter_map(|worker| worker.gateway_ref()).max_by_key(|found| rank(found.how))
}

/// The session that all these workers have.
fn session(workers: &[&Worker]) -> Option<String> {
    let first = workers.first()?.session.as_ref()?;
    workers.iter().all(|worker| worker.session.as_ref() == Some(first)).then(|| first.to_string())
}

/// `session 2026… under gateway python3(2780)`.
fn place(workers: &[&Worker]) -> String {
    let session = session(workers).map(|key| format!("session {key}"));
    let gateway = gateway(workers).map(|found| format!("gateway {}({})", found.comm, found.pid));
    match (session, gateway) {
        (Some(session), Some(gateway)) => format!("{session} under {gateway}"),
        (Some(session), None) => session,
        (None, Some(gateway)) => gateway,
        (None, None) => "an unknown session".to_owned(),
    }
}

/// `101, 102 and 103`; of many only the first ones.
fn pids(ids: impl IntoIterator<Item = Identity>) -> String {
    const SHOWN: usize = 12;
    let mut ids = ids.into_iter();
    let shown: Vec<String> = ids.by_ref().take(SHOWN).map(|id| id.pid.to_string()).collect();
    let more = ids.count();
    match shown.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [few @ .., last] if more == 0 => format!("{} and {last}", few.join(", ")),
        many => format!("{} and {more} more", many.join(", ")),
    }
}

fn ids(workers: &[&Worker]) -> String {
    pids(workers.iter().map(|worker| worker.id))
}

/// `1 worker`, `3 workers`; `noun` is the singular.
fn count(n: usize, noun: &str) -> String {
    match (n, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "process") => format!("{n} processes"),
        _ => format!("{n} {noun}s"),
    }
}

/// A size for a person, from KiB: `95 MiB`, `2.4 GiB`.
fn size(kib: u64) -> String {
    if kib < 1 << 20 {
        format!("{} MiB", kib >> 10)
    } else {
        let tenths = u128::from(kib) * 10 / (1 << 20);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        assert_eq!(time(5_900_000_000), "5 s");
        assert_eq!(time(600_000_000_000), "10 min");
        assert_eq!(time(u64::MAX), "5124095 h");
        assert_eq!(size(95 << 10), "95 MiB");
        assert_eq!(size(5 << 19), "2.5 GiB");
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
        let id = |pid| Identity { pid, start_ns: 1 };
        assert_eq!(pids([id(1)]), "1");
        assert_eq!(pids([1, 2, 3].map(id)), "1, 2 and 3");
        assert_eq!(pids((1..=20).map(id)), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 8 more");
    }
}
