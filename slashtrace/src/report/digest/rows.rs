//! What the fold of [`Lives`] comes to: the rows, their sums, and every life.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Case, Gateway, Life, OpenKind, Session, Total,
    cases::Cases,
    lives::{Key, Lives, Worker},
    open::{ByRow, Open},
};
use crate::{
    model::{Identity, Kind},
    report::words::plain,
    roster::Reasons,
};

/// What of the findings the rows show.
pub(super) struct Shown<'a> {
    pub(super) cases: &'a Cases,
    pub(super) open: &'a Open,
    pub(super) by_row: ByRow<'a>,
    /// Workers that an open finding shows to be unused.
    pub(super) stale: &'a BTreeSet<Identity>,
}

impl Lives {
    /// The rows in the order in which they are shown.
    fn order(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.rows.keys().collect();
        keys.sort_by_key(|key| (key.gateway.is_none(), key.gateway, key.session.is_none()));
        keys
    }

    /// The rows; `now_ns` is the last moment of the recording, of the boot clock.
    pub(super) fn sessions(&self, shown: &Shown<'_>, now_ns: u64) -> Vec<Session> {
        let mut present: BTreeMap<&Key, Vec<(&Identity, &Worker)>> = BTreeMap::new();
        for (id, worker) in self.workers.iter().filter(|(_, worker)| !worker.ended) {
            present.entry(&worker.key).or_default().push((id, worker));
        }
        let of = |key| present.get(key).map_or(&[][..], Vec::as_slice);
        let mut unjudged = self.unjudged();
        let order = self.order().into_iter();
        order
            .map(|key| Session {
                unjudged: unjudged.remove(key).unwrap_or_default(),
                ..self.session(key, of(key), shown, now_ns)
            })
            .collect()
    }

    /// One row; `present` are its workers that did not end.
    fn session(
        &self,
        key: &Key,
        present: &[(&Identity, &Worker)],
        shown: &Shown<'_>,
        now_ns: u64,
    ) -> Session {
        let row = &self.rows[key];
        let live = || present.iter().filter(|(_, worker)| worker.to_ms.is_none());
        let oldest_ns = live().map(|(id, _)| id.start_ns).min();
        let born = |start_ns: u64| self.clock.and_then(|clock| clock.wall(start_ns));
        let most = shown.cases.most(key);
        // What it read before it was watched was not counted.
        let whole = |worker: &Worker| worker.reads.is_some() && !worker.inherited;
        let open: Vec<OpenKind> = shown
            .by_row
            .get(key)
            .into_iter()
            .flatten()
            .map(|found| {
                let (&kind, &(confidence, findings)) = found;
                OpenKind { kind, confidence, findings }
            })
            .collect();
        let was = shown.open.was(key, &open);
        let mut findings: BTreeSet<Kind> = shown.cases.kinds_of(key).into_iter().collect();
        findings.extend(open.iter().map(|open| open.kind).chain(was.iter().copied()));
        Session {
            gateway: key.gateway.and_then(|id| self.named(id)),
            session: key.session.as_deref().map(|key| plain(key).into_owned()),
            live: row.live,
            sampled: live().filter(|(_, worker)| worker.rss_kib.is_some()).count() as u64,
            stale: live().filter(|(id, _)| shown.stale.contains(id)).count() as u64,
            most_stale: most.map_or(0, |most| most.workers),
            most_live: row.most_live,
            spawned: row.spawned,
            inherited: row.inherited,
            exited: row.spawned - row.live,
            oldest: oldest_ns.and_then(born),
            oldest_age_ms: oldest_ns.map(|start_ns| now_ns.saturating_sub(start_ns) / 1_000_000),
            oldest_stale: most.and_then(|most| born(most.oldest_ns)),
            rss_kib: live().filter_map(|(_, worker)| worker.rss_kib).fold(0, u64::saturating_add),
            calls: present
                .iter()
                .filter_map(|(_, worker)| worker.reads)
                .fold(row.calls, u64::saturating_add),
            calls_exact: present.iter().all(|(_, worker)| whole(worker)) && !row.inexact,
            findings: findings.into_iter().collect(),
            open,
            was,
            unjudged: Reasons::new(),
        }
    }

    /// Workers that could not be judged, by row.
    fn unjudged(&self) -> BTreeMap<&Key, Reasons> {
        let forgotten = self.rows.iter().map(|(key, row)| (key, row.unjudged.clone()));
        let mut rows: BTreeMap<&Key, Reasons> = forgotten.collect();
        for worker in self.workers.values() {
            if let Some(why) = worker.unjudged {
                *rows.entry(&worker.key).or_default().entry(why).or_default() += 1;
            }
        }
        rows
    }

    fn named(&self, id: Identity) -> Option<Gateway> {
        let known = self.gateways.get(&id)?;
        Some(Gateway {
            id,
            comm: plain(&known.comm).into_owned(),
            presumed: known.presumed,
            gone: known.gone,
        })
    }

    pub(super) fn total(
        &self,
        sessions: &[Session],
        stale: &BTreeSet<Identity>,
        (most_stale, most_stale_rss_kib): (u64, u64),
    ) -> Total {
        let sum = |of: fn(&Session) -> u64| sessions.iter().map(of).fold(0, u64::saturating_add);
        let stale = self.live().iter().filter(|id| stale.contains(id));
        Total {
            sessions: sessions.len() as u64,
            live: sum(|session| session.live),
            sampled: sum(|session| session.sampled),
            stale: sum(|session| session.stale),
            spawned: sum(|session| session.spawned),
            inherited: sum(|session| session.inherited),
            exited: sum(|session| session.exited),
            most_live: self.most_live,
            oldest_age_ms: sessions.iter().filter_map(|session| session.oldest_age_ms).max(),
            calls: sum(|session| session.calls),
            calls_exact: sessions.iter().all(|session| session.calls_exact),
            rss_kib: sum(|session| session.rss_kib),
            most_stale,
            most_stale_rss_kib,
            stale_rss_kib: stale
                .filter_map(|id| self.workers.get(id)?.rss_kib)
                .fold(0, u64::saturating_add),
        }
    }

    /// Every life, and how many are missing.
    pub(super) fn report(&self, findings: &[Case], stale: &BTreeSet<Identity>) -> (Vec<Life>, u64) {
        let mut named: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
        for (index, case) in findings.iter().enumerate() {
            for id in &case.workers {
                named.entry(*id).or_default().push(index);
            }
        }
        let rows: BTreeMap<&Key, usize> = self.order().into_iter().zip(0..).collect();
        let mut lives: Vec<Life> = self
            .workers
            .iter()
            .map(|(id, worker)| Life {
                id: *id,
                row: rows[&worker.key],
                from_ms: worker.from_ms,
                to_ms: worker.to_ms,
                inherited: worker.inherited,
                end: worker.end.clone(),
                calls_ms: worker.calls_ms.iter().copied().collect(),
                calls: worker.reads,
                rss_kib: worker.rss_kib,
                terminal: worker.terminal,
                findings: named.get(id).cloned().unwrap_or_default(),
                stale: stale.contains(id) && worker.to_ms.is_none(),
                unjudged: worker.unjudged,
            })
            .collect();
        lives.sort_by_key(|life| (life.row, life.id.start_ns, life.id.pid));
        (lives, self.omitted)
    }
}
