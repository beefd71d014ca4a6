//! The life of findings: what was said last about each subject, so that a finding is opened once,
//! updated when it became another, closed when it no longer holds, and never repeated.

use std::collections::BTreeMap;

use super::{detect::Verdict, table::Subject};
use crate::model::{Confidence, Finding, FindingState, Forecast, Identity, Kind};

/// A finding may grow the evidence only so fast: one that names n workers changes its workers at
/// most every n × this, ns. Below [`FEW`] at once.
const PACE: u64 = 10_000_000;
/// Findings with fewer workers are updated at once.
const FEW: usize = 16;

/// What makes a verdict another one than the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Renewal {
    /// Other workers or processes.
    Members,
    /// A size that changed by a quarter: for what grows all the time.
    Size(u64),
}

/// What was said last.
#[derive(Debug)]
struct Said {
    finding: Finding,
    renewal: Renewal,
    at: u64,
}

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<Subject, BTreeMap<Kind, Said>>,
}

/// What came of a verdict.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What is to be said.
    pub(super) finding: Option<Finding>,
    /// When to judge again because an update was held back.
    pub(super) deadline: Option<u64>,
}

impl Ledger {
    /// Whether a finding is open.
    pub(super) fn is_open(&self, subject: &Subject, kind: Kind) -> bool {
        self.open.get(subject).is_some_and(|kinds| kinds.contains_key(&kind))
    }

    /// Compares a verdict with what was said last. `seq` is the record that brought it.
    pub(super) fn settle(
        &mut self,
        subject: &Subject,
        kind: Kind,
        verdict: Option<Verdict>,
        (now, seq): (u64, u64),
    ) -> Settled {
        let last = self.open.get_mut(subject).and_then(|kinds| kinds.get_mut(&kind));
        match (last, verdict) {
            (None, None) => Settled::default(),
            (None, Some(verdict)) => {
                let (finding, renewal) = found(subject, kind, verdict, FindingState::Opened);
                let said = Said { finding: finding.clone(), renewal, at: now };
                self.open.entry(subject.clone()).or_default().insert(kind, said);
                Settled { finding: Some(finding), deadline: None }
            }
            (Some(_), None) => Settled { finding: self.close(subject, kind, seq), deadline: None },
            (Some(last), Some(verdict)) => {
                if !differs(last, &verdict) {
                    return Settled::default();
                }
                let pace = pace(last.finding.workers.len().max(verdict.workers.len()));
                let due = last.at.saturating_add(pace);
                if verdict.confidence == last.finding.confidence && due > now {
                    return Settled { finding: None, deadline: Some(due) };
                }
                let (finding, renewal) = found(subject, kind, verdict, FindingState::Updated);
                *last = Said { finding: finding.clone(), renewal, at: now };
                Settled { finding: Some(finding), deadline: None }
            }
        }
    }

    fn close(&mut self, subject: &Subject, kind: Kind, seq: u64) -> Option<Finding> {
        let kinds = self.open.get_mut(subject)?;
        let said = kinds.remove(&kind)?;
        if kinds.is_empty() {
            self.open.remove(subject);
        }
        let mut finding = said.finding;
        finding.state = FindingState::Closed;
        finding.because.push(seq);
        finding.because = bounded(finding.because);
        finding.text = format!("no longer so: {}", finding.text);
        Some(finding)
    }
}

fn differs(last: &Said, verdict: &Verdict) -> bool {
    if last.finding.confidence != verdict.confidence {
        return true;
    }
    let runs_out = |forecast: Option<Forecast>| forecast.and_then(|f| f.exhausted_in_s).is_some();
    match (last.renewal, verdict.renewal) {
        (Renewal::Size(before), Renewal::Size(size)) => {
            size.abs_diff(before) >= (before / 4).max(1)
                || runs_out(last.finding.forecast) != runs_out(verdict.forecast)
        }
        _ => {
            last.finding.workers.len() != verdict.workers.len()
                || last.finding.processes != verdict.processes
                || last
                    .finding
                    .workers
                    .iter()
                    .zip(&verdict.workers)
                    .any(|(before, now)| before.identity() != now.identity())
        }
    }
}

fn pace(workers: usize) -> u64 {
    if workers < FEW { 0 } else { PACE.saturating_mul(workers as u64) }
}

fn found(
    subject: &Subject,
    kind: Kind,
    verdict: Verdict,
    state: FindingState,
) -> (Finding, Renewal) {
    let finding = Finding {
        id: id(subject, kind),
        kind,
        state,
        confidence: verdict.confidence,
        gateway: verdict.gateway,
        session: verdict.session,
        workers: verdict.workers,
        processes: verdict.processes,
        forecast: verdict.forecast,
        because: bounded(verdict.because),
        text: verdict.text,
    };
    (finding, verdict.renewal)
}

/// `duplicate-worker/<gateway pid>-<gateway start>/<session>`; the parts after the kind name what
/// the finding is about: a group, a gateway or a worker.
fn id(subject: &Subject, kind: Kind) -> String {
    let part = |id: &Identity| format!("{}-{}", id.pid, id.start_ns);
    match subject {
        Subject::Group(key) => format!("{kind}/{}/{}", part(&key.gateway), key.session),
        Subject::Gateway(id) | Subject::Worker(id) => format!("{kind}/{}", part(id)),
    }
}

/// Ascending, without repetitions, at most 64: the first and the newest are kept.
fn bounded(mut because: Vec<u64>) -> Vec<u64> {
    const MOST: usize = 64;
    because.sort_unstable();
    because.dedup();
    if because.len() > MOST {
        because.drain(1..=because.len() - MOST);
    }
    because
}

/// The weakest of several confidences; proven if there is nothing that weakens.
pub(super) fn weakest(confidences: impl IntoIterator<Item = Confidence>) -> Confidence {
    confidences.into_iter().min().unwrap_or(Confidence::Proven)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn because_is_bounded_and_keeps_its_ends() {
        let kept = bounded((1..=200).rev().chain([5, 5]).collect());
        assert_eq!(kept.len(), 64);
        assert_eq!((kept[0], kept[1], kept[63]), (1, 138, 200));
        assert_eq!(bounded(vec![3, 1, 3]), [1, 3]);
    }

    #[test]
    fn only_findings_with_many_workers_are_paced() {
        assert_eq!(pace(15), 0);
        assert_eq!(pace(1_000), 10_000_000_000);
    }
}
