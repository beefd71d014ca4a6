use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Body, Confidence, FindingState, Kind, Record},
    roster::{Reasons, Roster, Totals},
};

/// What a recording comes to, for exit codes and status lines: a few numbers that are kept up to
/// date record by record. Who lives is the roster's to say; what was found is counted here.
#[derive(Debug, Default)]
pub struct Tally {
    totals: Totals,
    left_behind: usize,
    open: BTreeSet<String>,
    findings: u64,
    kinds: BTreeMap<Kind, Confidence>,
    lost: u64,
    complete: Option<bool>,
    unjudged: Reasons,
}

impl Tally {
    /// Takes one record, which the roster has just folded in.
    pub fn record(&mut self, record: &Record, roster: &Roster) {
        self.totals = roster.totals();
        self.left_behind = roster.left_behind();
        match &record.body {
            Body::Gap(gap) => self.lost = self.lost.saturating_add(gap.lost),
            Body::Finding(finding) => {
                if finding.state == FindingState::Closed {
                    self.open.remove(&finding.id);
                } else {
                    self.findings += u64::from(self.open.insert(finding.id.clone()));
                    let surest = self.kinds.entry(finding.kind).or_insert(finding.confidence);
                    *surest = finding.confidence.max(*surest);
                }
            }
            Body::Stop(stop) => {
                self.complete = Some(stop.complete);
                self.unjudged = roster.all_unjudged();
            }
            _ => {}
        }
    }

    /// Workers ever, those that were there before included.
    pub fn spawned(&self) -> u64 {
        self.totals.spawned
    }

    /// Workers that ended.
    pub fn exited(&self) -> u64 {
        self.totals.ended()
    }

    /// Workers that live now.
    pub fn live(&self) -> usize {
        self.totals.live as usize
    }

    /// Workers that live now although their gateway was seen to exit.
    pub fn left_behind(&self) -> usize {
        self.left_behind
    }

    /// Findings that are open now.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Findings that were ever opened.
    pub fn findings(&self) -> u64 {
        self.findings
    }

    /// Kinds that were ever opened.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.kinds.keys().copied()
    }

    /// The surest that a kind ever was; none if it was never found.
    pub fn surest(&self, kind: Kind) -> Option<Confidence> {
        self.kinds.get(&kind).copied()
    }

    /// Events that are known to be missing.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a leak was ever found with at least this confidence.
    pub fn found(&self, at_least: Confidence) -> bool {
        self.kinds.iter().any(|(kind, &surest)| kind.is_leak() && surest >= at_least)
    }

    /// Workers that could not be judged, or not in full, at the end of the recording, by why.
    pub fn unjudged(&self) -> &Reasons {
        &self.unjudged
    }

    /// Whether every worker was judged, be it in part.
    pub fn judged(&self) -> bool {
        self.unjudged.keys().all(|why| why.in_part())
    }

    /// Whether the recording ended in order; a file that was cut off did not.
    pub fn stopped(&self) -> bool {
        self.complete.is_some()
    }

    /// Whether it ended in order and nothing is known to be missing.
    pub fn complete(&self) -> bool {
        self.complete == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples::{finding, record, spawn},
        model::{Exit, Gap, GapReason, Identity, Role, Source, Stop},
        profile::Profile,
        roster::Unjudged,
    };

    fn tally(bodies: Vec<Body>) -> Tally {
        let mut tally = Tally::default();
        let mut roster = Roster::new(&Profile::hermes());
        for (seq, body) in (1..).zip(bodies) {
            let record = record(seq, seq, body);
            roster.observe(&record);
            tally.record(&record, &roster);
        }
        tally
    }

    fn exit(identity: Identity, role: Role) -> Body {
        Body::Exit(Exit {
            pid: identity.pid,
            start_ns: identity.start_ns,
            role,
            code: Some(0),
            signal: None,
            reads: None,
            source: Source::Kernel,
        })
    }

    #[test]
    fn a_worker_is_left_behind_once_its_gateway_exited() {
        let gateway = spawn().parent.unwrap().process.identity();
        let mut bodies = vec![Body::Spawn(Box::new(spawn()))];
        assert_eq!(tally(bodies.clone()).left_behind(), 0);
        bodies.push(exit(gateway, Role::Gateway));
        assert_eq!((tally(bodies.clone()).live(), tally(bodies.clone()).left_behind()), (1, 1));
        bodies.push(exit(spawn().identity(), Role::Worker));
        assert_eq!((tally(bodies.clone()).live(), tally(bodies).left_behind()), (0, 0));
    }

    #[test]
    fn found_goes_by_confidence_and_churn_is_no_leak() {
        let strong = tally(vec![Body::Finding(Box::new(finding()))]);
        assert!(strong.found(Confidence::Weak) && strong.found(Confidence::Strong));
        assert!(!strong.found(Confidence::Proven));
        let mut churn = finding();
        churn.kind = Kind::RespawnChurn;
        let churn = tally(vec![Body::Finding(Box::new(churn))]);
        assert!(!churn.found(Confidence::Weak));
        assert_eq!(churn.open(), 1);
    }

    #[test]
    fn a_closed_finding_was_found_all_the_same() {
        let mut closed = finding();
        closed.state = FindingState::Closed;
        let tally =
            tally(vec![Body::Finding(Box::new(finding())), Body::Finding(Box::new(closed))]);
        assert_eq!((tally.open(), tally.findings()), (0, 1));
        assert!(tally.found(Confidence::Strong));
    }

    #[test]
    fn complete_is_what_the_stop_says() {
        let stop = |complete| {
            Body::Stop(Stop { reason: "duration".to_owned(), counters: [].into(), complete })
        };
        assert!(!tally(vec![]).complete() && !tally(vec![]).stopped());
        assert!(tally(vec![stop(true)]).complete());
        let gap =
            Body::Gap(Gap { reason: GapReason::RingFull, lost: 3, resynced: true, uid: None });
        let lossy = tally(vec![gap, stop(false)]);
        assert!(lossy.stopped() && !lossy.complete());
        assert_eq!(lossy.lost(), 3);
    }

    #[test]
    fn who_could_not_be_judged_is_counted_at_the_end() {
        let stop =
            Body::Stop(Stop { reason: "duration".to_owned(), counters: [].into(), complete: true });
        let ended = |change: fn(&mut crate::model::Spawn)| {
            let mut spawn = spawn();
            change(&mut spawn);
            tally(vec![Body::Spawn(Box::new(spawn)), stop.clone()])
        };
        assert!(ended(|_| ()).unjudged().is_empty());
        let keyless = ended(|spawn| spawn.session = None);
        assert_eq!(*keyless.unjudged(), [(Unjudged::NoSession, 1)].into());
        assert!(!keyless.judged() && keyless.complete());
        let before = ended(|spawn| spawn.inherited = true);
        assert_eq!(*before.unjudged(), [(Unjudged::Inherited, 1)].into());
        assert!(before.judged());
    }
}
