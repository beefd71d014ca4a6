use super::{Point, Total, lives::Lives};
use crate::model::{Body, Forecast, Memory, Record, Role};

/// Points of a series: when there are more, every other one is dropped.
const POINTS_MAX: usize = 2_000;
/// A recording shorter than this says nothing of growth by the hour, ms.
const GROWTH_LEAST_MS: u64 = 600_000;

/// Live workers and memory over time.
#[derive(Debug, Default)]
pub(super) struct Chart {
    points: Vec<Point>,
    /// Two points are at least this far apart, ms.
    step_ms: u64,
    memory: Option<Memory>,
    most_kib: u64,
}

impl Chart {
    pub(super) fn take(&mut self, record: &Record, at_ms: u64, lives: &Lives) {
        let counts = match &record.body {
            Body::Spawn(spawn) => spawn.role == Role::Worker,
            Body::Exit(exit) => exit.role == Role::Worker,
            Body::Sample(_) | Body::Stop(_) => true,
            Body::Tick(tick) => {
                self.memory = tick.memory.or(self.memory);
                tick.memory.is_some()
            }
            Body::Start(start) => {
                self.memory = Some(start.host.memory);
                true
            }
            _ => false,
        };
        if !counts {
            return;
        }
        self.most_kib = self.most_kib.max(lives.rss_kib());
        let point = Point {
            at_ms,
            live: lives.live().len() as u64,
            rss_kib: lives.rss_kib(),
            available_kib: self.memory.map(|memory| memory.available_kib),
        };
        match self.points.last_mut() {
            // The last word on a moment counts, except that a peak is never lost.
            Some(last) if at_ms < last.at_ms.saturating_add(self.step_ms.max(1)) => {
                last.live = if self.step_ms > 1 { last.live.max(point.live) } else { point.live };
                last.rss_kib = point.rss_kib;
                last.available_kib = point.available_kib;
            }
            _ => self.points.push(point),
        }
        if self.points.len() > POINTS_MAX {
            self.step_ms = (self.step_ms.max(1) * 2).max(at_ms / POINTS_MAX as u64);
            let mut kept: Vec<Point> = Vec::with_capacity(POINTS_MAX);
            for point in self.points.drain(..) {
                match kept.last_mut() {
                    Some(last) if point.at_ms < last.at_ms + self.step_ms => {
                        last.live = last.live.max(point.live);
                        last.rss_kib = last.rss_kib.max(point.rss_kib);
                    }
                    _ => kept.push(point),
                }
            }
            self.points = kept;
        }
    }

    pub(super) fn memory(&self) -> Option<Memory> {
        self.memory
    }

    pub(super) fn most_kib(&self) -> u64 {
        self.most_kib
    }

    pub(super) fn report(&self) -> Vec<Point> {
        self.points.clone()
    }
}

/// How fast workers became more over the whole recording; none where it was short, or they did not.
pub(super) fn growth_of(
    lasted_ms: u64,
    total: Total,
    available_kib: Option<u64>,
) -> Option<Forecast> {
    let more = (total.spawned - total.inherited).checked_sub(total.exited).filter(|&n| n > 0)?;
    if lasted_ms < GROWTH_LEAST_MS || total.live == 0 {
        return None;
    }
    let each_kib = total.rss_kib / total.live;
    let per_hour = |amount: u64| amount.saturating_mul(3_600_000) / lasted_ms;
    let kib_per_hour = per_hour(more * each_kib);
    let exhausted_in_s = available_kib
        .filter(|_| kib_per_hour > 0)
        .map(|kib| kib.saturating_mul(3600) / kib_per_hour);
    Some(Forecast { workers_per_hour: per_hour(more), kib_per_hour, exhausted_in_s })
}
