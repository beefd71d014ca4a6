use std::collections::VecDeque;

use crate::roster::Rules;

/// How late a record may come; a moment is looked at only when it is this long ago, so that the
/// order in which a ring buffer hands over what happened at once makes no difference. ns.
pub(super) const LAG: u64 = 1_000_000_000;
/// Points of time a window is divided by.
const POINTS: u64 = 60;

/// How the surplus of a gateway developed while it was watched, at points of time.
#[derive(Debug)]
pub(super) struct Growth {
    next: u64,
    points: VecDeque<(u64, u64)>,
    over_since: Option<u64>,
}

impl Growth {
    /// Watched from `now`.
    pub(super) fn new(now: u64) -> Self {
        Self { next: now, points: VecDeque::new(), over_since: None }
    }

    /// Points of time whose surplus is to be noted now.
    pub(super) fn due(&mut self, now: u64, rules: &Rules) -> Vec<u64> {
        let step = (rules.accumulation / POINTS).max(1);
        let Some(until) = now.checked_sub(LAG) else { return Vec::new() };
        self.next = self.next.max(now.saturating_sub(rules.accumulation));
        let mut due = Vec::new();
        while self.next <= until && due.len() as u64 <= POINTS {
            due.push(self.next);
            self.next = self.next.saturating_add(step);
        }
        due
    }

    /// Notes the surplus at a point of time.
    pub(super) fn note(&mut self, at: u64, surplus: u64) {
        self.points.push_back((at, surplus));
    }

    /// Drops what lies before the window, and notes since when the surplus has grown by as much
    /// as is called accumulation.
    pub(super) fn settle(&mut self, now: u64, surplus: u64, least: u64, rules: &Rules) {
        let from = now.saturating_sub(rules.accumulation);
        while self.points.front().is_some_and(|&(at, _)| at < from) {
            self.points.pop_front();
        }
        let over = surplus >= least && self.grown(surplus) >= least;
        self.over_since = over.then(|| self.over_since.unwrap_or(now));
    }

    /// By how much the surplus has grown within the window.
    pub(super) fn grown(&self, surplus: u64) -> u64 {
        let least = self.points.iter().map(|&(_, surplus)| surplus).min();
        least.map_or(0, |least| surplus.saturating_sub(least))
    }

    /// Since when the growth is as large as is called accumulation.
    pub(super) fn over_since(&self) -> Option<u64> {
        self.over_since
    }

    /// The first point of the window.
    pub(super) fn first_point(&self) -> Option<u64> {
        self.points.front().map(|&(at, _)| at)
    }

    /// The last point at which there was less surplus.
    pub(super) fn last_below(&self, surplus: u64) -> Option<u64> {
        self.points.iter().rev().find(|&&(_, value)| value < surplus).map(|&(at, _)| at)
    }
}
