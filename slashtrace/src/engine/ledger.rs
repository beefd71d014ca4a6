//! The life of findings: what was said last about each subject, so that a finding is opened once,
//! updated when it became another, closed when it no longer holds, and never repeated.

use std::collections::BTreeMap;

use super::detect::{Holds, Verdict};
use crate::{
    model::{Confidence, Finding, FindingState, Forecast, Identity, Kind},
    roster::{GroupKey, Index, Roster, Subject},
};

/// A finding may grow the evidence only so fast: one that is about n workers and processes changes
/// them at most every n × this, ns. Below [`FEW`] at once.
const PACE: u64 = 10_000_000;
/// Findings about fewer are updated at once.
const FEW: usize = 16;
/// Processes that a finding lists at most, oldest first: how many there are it says beside that.
/// Workers are all listed: whoever ends them must know which.
const PROCESSES_MAX: usize = 256;

/// What makes a verdict another one than the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Renewal {
    /// Other workers or processes.
    Members,
    /// A size that changed by a quarter: for what grows all the time.
    Size(u64),
}

impl Renewal {
    /// Whether the size is another one.
    pub(super) fn differs(self, now: Self) -> bool {
        match (self, now) {
            (Self::Size(before), Self::Size(size)) => size.abs_diff(before) >= (before / 4).max(1),
            _ => self != now,
        }
    }
}

/// What a rule may want to know of what it said last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) renewal: Renewal,
    /// How many workers and processes it was about.
    named: usize,
    at: u64,
    /// Whether it was said when memory runs out.
    pub(super) runs_out: bool,
}

impl Said {
    /// Until when other processes are no reason to say it again, if it is about many.
    pub(super) fn paced_until(self) -> u64 {
        self.at.saturating_add(pace(self.named))
    }
}

/// What was said last.
#[derive(Debug)]
struct Open {
    finding: Finding,
    renewal: Renewal,
    at: u64,
    /// Until when it stays although nothing shows it any more, ns of the boot clock: it was found
    /// before a restart, in what only the daemon of that time had seen.
    stays_until: u64,
}

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Boxed: a node has room for eleven, and most subjects have one.
    open: Index<Subject, BTreeMap<Kind, Box<Open>>>,
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
    /// What was said last, if the finding is open.
    pub(super) fn said(&self, subject: &Subject, kind: Kind) -> Option<Said> {
        let open = self.open.get(subject)?.get(&kind)?;
        Some(Said {
            renewal: open.renewal,
            named: open.finding.named(),
            at: open.at,
            runs_out: runs_out(open.finding.forecast),
        })
    }

    /// Whether anything that was said about a subject is open.
    pub(super) fn is_open(&self, subject: &Subject) -> bool {
        self.open.contains_key(subject)
    }

    /// Compares a verdict with what was said last. `seq` is the record that brought it.
    pub(super) fn settle(
        &mut self,
        subject: &Subject,
        kind: Kind,
        holds: Holds,
        (now, seq): (u64, u64),
    ) -> Settled {
        let last = self.open.get_mut(subject).and_then(|kinds| kinds.get_mut(&kind));
        match (last, holds) {
            (_, Holds::AsSaid) | (None, Holds::No) => Settled::default(),
            (None, Holds::Yes(verdict)) => {
                let (finding, renewal) = found(subject, kind, *verdict, FindingState::Opened);
                let said = Open { finding: finding.clone(), renewal, at: now, stays_until: 0 };
                self.open.entry(subject.clone()).or_default().insert(kind, Box::new(said));
                Settled { finding: Some(finding), deadline: None }
            }
            (Some(last), Holds::No) if last.stays_until > now => {
                Settled { finding: None, deadline: Some(last.stays_until) }
            }
            (Some(_), Holds::No) => {
                Settled { finding: self.close(subject, kind, seq), deadline: None }
            }
            (Some(last), Holds::Yes(verdict)) => {
                if !differs(last, &verdict) {
                    return Settled::default();
                }
                let pace = match verdict.renewal {
                    Renewal::Members => pace(last.finding.named().max(verdict.named())),
                    Renewal::Size(_) => 0,
                };
                let due = last.at.saturating_add(pace);
                if verdict.confidence == last.finding.confidence && due > now {
                    return Settled { finding: None, deadline: Some(due) };
                }
                let (finding, renewal) = found(subject, kind, *verdict, FindingState::Updated);
                **last = Open { finding: finding.clone(), renewal, at: now, stays_until: 0 };
                Settled { finding: Some(finding), deadline: None }
            }
        }
    }

    /// Takes an open finding of before a restart. It stays open as long as it holds; of what is seen
    /// only over a window of time, for that long at least.
    /// What it is about, to be judged again.
    pub(super) fn restore(
        &mut self,
        finding: &Finding,
        at: u64,
        roster: &Roster,
    ) -> Option<Subject> {
        let subject = subject_of(finding)?;
        let window = match finding.kind {
            Kind::Accumulation => roster.rules.accumulation,
            Kind::RespawnChurn => roster.rules.churn,
            _ => 0,
        };
        let stays_until = if window == 0 { 0 } else { at.saturating_add(window) };
        let finding = Finding { state: FindingState::Opened, ..finding.clone() };
        let kind = finding.kind;
        let open = Open { finding, renewal: Renewal::Members, at, stays_until };
        self.open.entry(subject.clone()).or_default().insert(kind, Box::new(open));
        Some(subject)
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

fn runs_out(forecast: Option<Forecast>) -> bool {
    forecast.is_some_and(|forecast| forecast.exhausted_in_s.is_some())
}

fn differs(last: &Open, verdict: &Verdict) -> bool {
    if last.finding.confidence != verdict.confidence {
        return true;
    }
    match (last.renewal, verdict.renewal) {
        // How large it was when it was said before a restart is not known.
        (Renewal::Members, Renewal::Size(_)) => true,
        (Renewal::Size(_), Renewal::Size(_)) => {
            last.renewal.differs(verdict.renewal)
                || runs_out(last.finding.forecast) != runs_out(verdict.forecast)
        }
        _ => {
            last.finding.workers.len() != verdict.workers.len()
                || last.finding.processes_total() != verdict.processes.len()
                || last.finding.processes.iter().zip(&verdict.processes).any(|(a, b)| a != b)
                || last.finding.workers.iter().zip(&verdict.workers).any(|(before, now)| {
                    before.identity() != now.identity() || before.unused != now.unused
                })
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
    let total = verdict.processes.len();
    let mut processes = verdict.processes;
    processes.truncate(PROCESSES_MAX);
    let finding = Finding {
        id: id(subject, kind),
        kind,
        state,
        confidence: verdict.confidence,
        gateway: verdict.gateway,
        session: verdict.session,
        workers: verdict.workers,
        processes_total: (total > processes.len()).then_some(total as u64),
        processes,
        terminal: verdict.terminal,
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
        Subject::Reaper(None) => kind.name().to_owned(),
        Subject::Reaper(Some(uid)) => format!("{kind}/{uid}"),
    }
}

/// What a finding is about, by its id.
fn subject_of(finding: &Finding) -> Option<Subject> {
    let kind = finding.kind;
    let rest = finding.id.strip_prefix(kind.name())?;
    if kind == Kind::ReaperStopped {
        return match rest.strip_prefix('/') {
            Some(uid) => Some(Subject::Reaper(Some(uid.parse().ok()?))),
            None => Some(Subject::Reaper(None)),
        };
    }
    let (process, session) = match rest.strip_prefix('/')?.split_once('/') {
        Some((process, session)) => (process, Some(session)),
        None => (rest.strip_prefix('/')?, None),
    };
    let (pid, start_ns) = process.split_once('-')?;
    let process = Identity { pid: pid.parse().ok()?, start_ns: start_ns.parse().ok()? };
    Some(match (session, kind) {
        (Some(session), _) => {
            Subject::Group(GroupKey { gateway: process, session: session.into() })
        }
        (None, Kind::GatewayOrphan | Kind::Abandoned | Kind::Accumulation) => {
            Subject::Gateway(process)
        }
        (None, _) => Subject::Worker(process),
    })
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
    fn a_finding_says_what_it_is_about() {
        let id = Identity { pid: 7, start_ns: 8 };
        let key = |session: &str| GroupKey { gateway: id, session: session.into() };
        let subjects = [
            (Kind::DuplicateWorker, Subject::Group(key("a/b-1"))),
            (Kind::SpawnPerCall, Subject::Group(key(""))),
            (Kind::Abandoned, Subject::Gateway(id)),
            (Kind::Accumulation, Subject::Gateway(id)),
            (Kind::GatewayOrphan, Subject::Gateway(id)),
            (Kind::Unreachable, Subject::Worker(id)),
            (Kind::ReaperStopped, Subject::Reaper(None)),
            (Kind::ReaperStopped, Subject::Reaper(Some(1000))),
        ];
        for (kind, subject) in subjects {
            let mut finding = crate::model::testing::finding(kind, [id]);
            finding.id = super::id(&subject, kind);
            assert_eq!(subject_of(&finding), Some(subject));
            finding.id.insert(0, '/');
            assert_eq!(subject_of(&finding), None);
        }
    }

    #[test]
    fn only_findings_with_many_workers_are_paced() {
        assert_eq!(pace(15), 0);
        assert_eq!(pace(1_000), 10_000_000_000);
    }
}
