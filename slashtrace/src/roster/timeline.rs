//! Processes in the order of a moment of theirs.

use std::{
    collections::VecDeque,
    ops::{Bound, RangeBounds},
};

use crate::model::Identity;

/// Below this capacity nothing is given back.
const SMALL: usize = 32;

/// Processes by a moment, ns of the boot clock, then by identity; each pair is there once.
///
/// What comes in is nearly always the newest and what goes out the oldest, so both ends are tried
/// first: neither costs more when there are many.
#[derive(Debug, Default)]
pub(crate) struct Timeline(VecDeque<(u64, Identity)>);

impl Timeline {
    pub(super) fn insert(&mut self, moment: u64, id: Identity) {
        let item = (moment, id);
        if self.0.capacity() == 0 {
            // Most groups have one worker.
            self.0.reserve_exact(1);
        }
        if self.0.back().is_none_or(|last| *last < item) {
            self.0.push_back(item);
        } else if let Err(place) = self.0.binary_search(&item) {
            self.0.insert(place, item);
        }
    }

    pub(super) fn remove(&mut self, moment: u64, id: Identity) {
        let item = (moment, id);
        if self.0.front() == Some(&item) {
            self.0.pop_front();
        } else if let Ok(place) = self.0.binary_search(&item) {
            self.0.remove(place);
        }
        self.give_back();
    }

    pub(super) fn pop_first(&mut self) -> Option<(u64, Identity)> {
        let first = self.0.pop_front();
        self.give_back();
        first
    }

    pub(crate) fn first(&self) -> Option<(u64, Identity)> {
        self.0.front().copied()
    }

    pub(crate) fn last(&self) -> Option<(u64, Identity)> {
        self.0.back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, the oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, Identity)> + '_ {
        self.0.iter().copied()
    }

    /// Those whose moment is within a span, the oldest first.
    pub(crate) fn within(
        &self,
        span: impl RangeBounds<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, Identity)> + '_ {
        let low = match span.start_bound() {
            Bound::Included(&from) => self.0.partition_point(|&(at, _)| at < from),
            Bound::Excluded(&from) => self.0.partition_point(|&(at, _)| at <= from),
            Bound::Unbounded => 0,
        };
        let high = match span.end_bound() {
            Bound::Included(&until) => self.0.partition_point(|&(at, _)| at <= until),
            Bound::Excluded(&until) => self.0.partition_point(|&(at, _)| at < until),
            Bound::Unbounded => self.0.len(),
        };
        self.0.range(low..high.max(low)).copied()
    }

    /// After a storm there is room for more than will come again soon.
    fn give_back(&mut self) {
        if self.0.capacity() > SMALL && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_an_ordered_set(
            steps in prop::collection::vec((0u8..6, 0u64..30, 0u32..3), 1..200),
            from in 0u64..30,
            until in 0u64..30,
        ) {
            let mut set = BTreeSet::new();
            let mut line = Timeline::default();
            for (what, at, pid) in steps {
                let id = Identity { pid, start_ns: 0 };
                match what {
                    0 => prop_assert_eq!(line.pop_first(), set.pop_first()),
                    1 | 2 => {
                        set.remove(&(at, id));
                        line.remove(at, id);
                    }
                    _ => {
                        set.insert((at, id));
                        line.insert(at, id);
                    }
                }
                prop_assert_eq!(line.first(), set.first().copied());
            }
            prop_assert_eq!(line.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            let of_set = |from: u64, until: u64| -> Vec<_> {
                set.iter().filter(|(at, _)| (from..until).contains(at)).copied().collect()
            };
            prop_assert_eq!(line.within(from..until).collect::<Vec<_>>(), of_set(from, until));
            prop_assert_eq!(line.within(from..).collect::<Vec<_>>(), of_set(from, u64::MAX));
        }
    }

    #[test]
    fn a_storm_does_not_keep_its_room() {
        let mut line = Timeline::default();
        for at in 0..10_000 {
            line.insert(at, Identity { pid: 1, start_ns: at });
        }
        while line.len() > 10 {
            line.pop_first();
        }
        assert!(line.0.capacity() <= 200, "{}", line.0.capacity());
    }
}
