use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    Case, Known,
    lives::{Key, Lives, Merged},
};
use crate::{
    model::{Confidence, Finding, FindingState, FindingWorker, Forecast, Identity, Kind, Record},
    profile::{Project, Sign},
    report::words::plain,
};

/// Findings that are kept; further ones are counted in their sessions alone.
const CASES_MAX: usize = 5_000;
/// Workers of one finding that are kept.
const NAMED_MAX: usize = 5_000;
/// Records that prove a finding and are kept: a report is to be read.
const BECAUSE_MAX: usize = 200;
/// Duplicates that were spawned this shortly behind each other are of one race, ns.
const TOGETHER: u64 = 2_000_000_000;

/// Every finding, over its life.
#[derive(Debug, Default)]
pub(super) struct Cases {
    by_id: BTreeMap<String, Followed>,
    kinds: BTreeMap<Key, BTreeSet<Kind>>,
    omitted: u64,
    /// Workers that open findings show to be unused.
    marks: BTreeMap<Identity, Mark>,
    stale: BTreeMap<Key, BTreeSet<Identity>>,
    most: BTreeMap<Key, Most>,
    most_of_all: (u64, u64),
}

/// When most of a session's workers were stale.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Most {
    pub(super) workers: u64,
    /// Start of the oldest of them, ns of the boot clock.
    pub(super) oldest_ns: u64,
}

/// That a worker is unused.
#[derive(Debug, Default)]
struct Mark {
    /// Open findings that show it.
    findings: u32,
    /// Whose worker it is; none if its life is not kept.
    key: Option<Key>,
}

#[derive(Debug)]
struct Followed {
    case: Case,
    /// What it says now, while it is open.
    unused: BTreeSet<Identity>,
    forecast: Option<Forecast>,
}

impl Cases {
    pub(super) fn take(&mut self, record: &Record, at_ms: u64, finding: &Finding, lives: &Lives) {
        let gateway = finding.gateway.as_ref();
        let gateway = gateway.map(|at| Identity { pid: at.pid, start_ns: at.start_ns });
        let key = Key { gateway, session: finding.session.clone() };
        self.kinds.entry(key).or_default().insert(finding.kind);
        if self.by_id.len() >= CASES_MAX && !self.by_id.contains_key(&finding.id) {
            self.omitted += u64::from(finding.state == FindingState::Opened);
            return;
        }
        let named: Vec<Identity> =
            finding.workers.iter().take(NAMED_MAX).map(FindingWorker::identity).collect();
        let unused: BTreeSet<Identity> = finding
            .workers
            .iter()
            .filter(|worker| worker.unused)
            .map(FindingWorker::identity)
            .collect();
        let followed = self.by_id.entry(finding.id.clone()).or_insert_with(|| Followed {
            case: Case {
                id: finding.id.clone(),
                kind: finding.kind,
                confidence: finding.confidence,
                open: true,
                opened_ms: at_ms,
                closed_ms: None,
                opened: record.time,
                session: finding.session.as_deref().map(|key| plain(key).into_owned()),
                gateway,
                workers: Vec::new(),
                unused: 0,
                text: String::new(),
                because: Vec::new(),
                known: Vec::new(),
            },
            unused: BTreeSet::new(),
            forecast: None,
        });
        let case = &mut followed.case;
        case.confidence = case.confidence.max(finding.confidence);
        if finding.state == FindingState::Closed {
            case.open = false;
            case.closed_ms = Some(at_ms);
            let before = std::mem::take(&mut followed.unused);
            self.mark(&before, &BTreeSet::new(), lives);
            return;
        }
        case.open = true;
        case.closed_ms = None;
        if named.len() >= case.workers.len() {
            case.workers = named;
            case.unused = unused.len() as u64;
            case.text = plain(&finding.text).into_owned();
            case.because = finding.because.iter().copied().take(BECAUSE_MAX).collect();
        }
        followed.forecast = finding.forecast.or(followed.forecast);
        let before = std::mem::replace(&mut followed.unused, unused.clone());
        self.mark(&before, &unused, lives);
    }

    /// Keeps the books of who is stale.
    fn mark(&mut self, before: &BTreeSet<Identity>, after: &BTreeSet<Identity>, lives: &Lives) {
        let mut more = BTreeSet::new();
        for id in after.difference(before) {
            let mark = self.marks.entry(*id).or_default();
            mark.findings += 1;
            if mark.findings == 1
                && let Some(worker) = lives.worker(id)
            {
                mark.key = Some(worker.key.clone());
                self.stale.entry(worker.key.clone()).or_default().insert(*id);
                more.insert(worker.key.clone());
            }
        }
        for id in before.difference(after) {
            let Entry::Occupied(mut mark) = self.marks.entry(*id) else { continue };
            mark.get_mut().findings -= 1;
            if mark.get().findings > 0 {
                continue;
            }
            if let Some(key) = mark.remove().key
                && let Some(stale) = self.stale.get_mut(&key)
            {
                stale.remove(id);
            }
        }
        for key in more {
            let Some(stale) = self.stale.get(&key) else { continue };
            let most = self.most.entry(key).or_default();
            if stale.len() as u64 > most.workers {
                let oldest = stale.iter().map(|id| id.start_ns).min();
                *most = Most { workers: stale.len() as u64, oldest_ns: oldest.unwrap_or(0) };
            }
        }
        let all = self.marks.len() as u64;
        if all > self.most_of_all.0 {
            let sizes = self.marks.keys().filter_map(|id| lives.worker(id)?.rss_kib);
            let rss = sizes.fold(0, u64::saturating_add);
            self.most_of_all = (all, rss);
        }
    }

    /// What was about the one row is about the other.
    pub(super) fn merge(&mut self, Merged { from, into }: &Merged) {
        if let Some(kinds) = self.kinds.remove(from) {
            self.kinds.entry(into.clone()).or_default().extend(kinds);
        }
        for key in self.marks.values_mut().filter_map(|mark| mark.key.as_mut()) {
            if key == from {
                key.clone_from(into);
            }
        }
        if let Some(stale) = self.stale.remove(from) {
            self.stale.entry(into.clone()).or_default().extend(stale);
        }
        if let Some(moved) = self.most.remove(from) {
            let most = self.most.entry(into.clone()).or_default();
            if moved.workers > most.workers {
                *most = moved;
            }
        }
    }

    /// When most of a session's workers were stale.
    pub(super) fn most(&self, key: &Key) -> Option<Most> {
        self.most.get(key).copied()
    }

    /// Most workers that were stale at once, and their memory then, KiB.
    pub(super) fn most_of_all(&self) -> (u64, u64) {
        self.most_of_all
    }

    /// Workers that an open finding shows to be unused.
    pub(super) fn stale(&self) -> BTreeSet<Identity> {
        self.marks.keys().copied().collect()
    }

    pub(super) fn kinds_of(&self, key: &Key) -> Vec<Kind> {
        self.kinds.get(key).into_iter().flatten().copied().collect()
    }

    /// The forecast of the surest `accumulation`.
    pub(super) fn growth(&self, findings: &[Case]) -> Option<Forecast> {
        let growing = findings.iter().filter(|case| case.kind == Kind::Accumulation);
        growing
            .filter_map(|case| self.by_id.get(&case.id)?.forecast)
            .max_by_key(|forecast| forecast.kib_per_hour)
    }

    pub(super) fn report(&self, lives: &Lives, project: Option<&Project>) -> Vec<Case> {
        let cases = self.by_id.values();
        cases
            .map(|followed| {
                let mut case = followed.case.clone();
                case.known = known(project, &signs(&case, lives));
                case
            })
            .collect()
    }

    /// Findings that were not kept.
    pub(super) fn omitted(&self) -> u64 {
        self.omitted
    }
}

/// What a finding shows.
pub(super) fn signs(case: &Case, lives: &Lives) -> BTreeSet<Sign> {
    let mut signs: BTreeSet<Sign> = Sign::of(case.kind).into_iter().collect();
    if matches!(case.kind, Kind::DuplicateWorker | Kind::LostWorker | Kind::Accumulation) {
        // Of one session each: an accumulation is about all of a gateway.
        let mut born: BTreeMap<Option<&Key>, Vec<u64>> = BTreeMap::new();
        for id in &case.workers {
            born.entry(lives.worker(id).map(|worker| &worker.key)).or_default().push(id.start_ns);
        }
        for births in born.values_mut() {
            births.sort_unstable();
            signs.extend(births.windows(2).map(|pair| match pair[1] - pair[0] {
                0..=TOGETHER => Sign::DuplicatesTogether,
                _ => Sign::DuplicatesApart,
            }));
        }
    }
    signs
}

fn known(project: Option<&Project>, signs: &BTreeSet<Sign>) -> Vec<Known> {
    let Some(project) = project else { return Vec::new() };
    let known = project.known.iter();
    known
        .filter(|known| known.signs.iter().any(|sign| signs.contains(sign)))
        .map(|known| Known {
            issue: known.issue,
            url: format!("{}{}", project.issues, known.issue),
            title: known.title.clone(),
            fixed_in: known.fixed_in.clone(),
        })
        .collect()
}

/// The surest confidence of these findings.
pub(super) fn surest(cases: &[&Case]) -> Option<Confidence> {
    cases.iter().map(|case| case.confidence).max()
}
