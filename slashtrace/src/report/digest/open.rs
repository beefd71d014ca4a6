//! Findings that are open, and the rows that each is about.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    OpenKind, Sentence, StillOpen,
    lives::{Key, Lives, Merged},
};
use crate::{
    model::{Confidence, Finding, FindingState, Identity, Kind},
    report::words::plain,
};

/// Sentences of findings of one kind that are kept.
const SENTENCES_MAX: usize = 10;

/// The open findings by their ids. As many as the engine holds open, unlike the cases.
#[derive(Debug, Default)]
pub(super) struct Open {
    by_id: BTreeMap<(Kind, String), Standing>,
    /// Kinds that were open in a row and are not.
    was: BTreeMap<Key, BTreeSet<Kind>>,
}

/// What a finding says now, and the rows that it is about.
#[derive(Debug)]
struct Standing {
    confidence: Confidence,
    text: String,
    rows: BTreeSet<Key>,
}

/// The open kinds of each row, with the surest confidence and how often.
pub(super) type ByRow<'a> = BTreeMap<&'a Key, BTreeMap<Kind, (Confidence, u64)>>;

impl Open {
    pub(super) fn take(&mut self, finding: &Finding, lives: &Lives) {
        let rows = rows_of(finding, lives);
        let id = (finding.kind, finding.id.clone());
        let before = self.by_id.remove(&id).map(|standing| standing.rows).unwrap_or_default();
        let closed = finding.state == FindingState::Closed;
        for key in before.into_iter().filter(|key| closed || !rows.contains(key)) {
            self.was.entry(key).or_default().insert(finding.kind);
        }
        if !closed {
            let text = plain(&finding.text).into_owned();
            self.by_id.insert(id, Standing { confidence: finding.confidence, text, rows });
        }
    }

    /// What was about the one row is about the other.
    pub(super) fn merge(&mut self, Merged { from, into }: &Merged) {
        for standing in self.by_id.values_mut() {
            if standing.rows.remove(from) {
                standing.rows.insert(into.clone());
            }
        }
        if let Some(was) = self.was.remove(from) {
            self.was.entry(into.clone()).or_default().extend(was);
        }
    }

    pub(super) fn by_row(&self) -> ByRow<'_> {
        let mut rows = ByRow::new();
        for ((kind, _), standing) in &self.by_id {
            for key in &standing.rows {
                let kinds = rows.entry(key).or_default();
                let (surest, findings) = kinds.entry(*kind).or_insert((standing.confidence, 0));
                *surest = standing.confidence.max(*surest);
                *findings += 1;
            }
        }
        rows
    }

    /// Kinds that were open in a row and are not.
    pub(super) fn was(&self, key: &Key, open: &[OpenKind]) -> Vec<Kind> {
        let was = self.was.get(key).into_iter().flatten();
        was.filter(|kind| open.iter().all(|open| open.kind != **kind)).copied().collect()
    }

    pub(super) fn report(&self) -> Vec<StillOpen> {
        let mut open: Vec<StillOpen> = Vec::new();
        for ((kind, _), standing) in &self.by_id {
            if open.last().is_none_or(|last| last.kind != *kind) {
                open.push(StillOpen { kind: *kind, findings: 0, first: Vec::new() });
            }
            let Some(of_kind) = open.last_mut() else { continue };
            of_kind.findings += 1;
            if of_kind.first.len() < SENTENCES_MAX {
                let Standing { confidence, ref text, .. } = *standing;
                of_kind.first.push(Sentence { confidence, text: text.clone() });
            }
        }
        open
    }
}

/// The rows that a finding is about: those of its workers, and its group's.
fn rows_of(finding: &Finding, lives: &Lives) -> BTreeSet<Key> {
    let workers = finding.workers.iter().filter_map(|worker| lives.worker(&worker.identity()));
    let mut rows: BTreeSet<Key> =
        workers.filter(|worker| !worker.ended).map(|worker| worker.key.clone()).collect();
    let gateway = finding.gateway.as_ref();
    let gateway = gateway.map(|at| Identity { pid: at.pid, start_ns: at.start_ns });
    let group = Key { gateway, session: finding.session.clone() };
    if lives.rows.contains_key(&group) {
        rows.insert(group);
    }
    rows
}
