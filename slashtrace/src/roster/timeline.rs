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
///
/// An empty one is small: most groups have one worker, which lives and was not seen to serve.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a quarter of the room where there are none")]
pub(crate) struct Timeline(Option<Box<VecDeque<(u64, Identity)>>>);

static EMPTY: VecDeque<(u64, Identity)> = VecDeque::new();

impl Timeline {
    fn items(&self) -> &VecDeque<(u64, Identity)> {
        self.0.as_deref().unwrap_or(&EMPTY)
    }

    pub(super) fn insert(&mut self, moment: u64, id: Identity) {
        let item = (moment, id);
        // Most have one.
        let items = self.0.get_or_insert_with(|| Box::new(VecDeque::with_capacity(1)));
        if items.back().is_none_or(|last| *last < item) {
            items.push_back(item);
        } else if let Err(place) = items.binary_search(&item) {
            items.insert(place, item);
        }
    }

    pub(super) fn remove(&mut self, moment: u64, id: Identity) {
        let item = (moment, id);
        let Some(items) = &mut self.0 else { return };
        match items.front() {
            Some(first) if *first == item => drop(items.pop_front()),
            // What was taken out already was before all that is left.
            Some(first) if *first > item => return,
            _ => match items.binary_search(&item) {
                Ok(place) => drop(items.remove(place)),
                Err(_) => return,
            },
        }
        give_back(items);
    }

    pub(super) fn pop_first(&mut self) -> Option<(u64, Identity)> {
        let items = self.0.as_deref_mut()?;
        let first = items.pop_front();
        give_back(items);
        first
    }

    pub(crate) fn first(&self) -> Option<(u64, Identity)> {
        self.items().front().copied()
    }

    pub(crate) fn last(&self) -> Option<(u64, Identity)> {
        self.items().back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.items().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items().is_empty()
    }

    /// All of them, the oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, Identity)> + '_ {
        self.items().iter().copied()
    }

    /// Those whose moment is within a span, the oldest first.
    pub(crate) fn within(
        &self,
        span: impl RangeBounds<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, Identity)> + '_ {
        let items = self.items();
        let low = match span.start_bound() {
            Bound::Included(&from) => items.partition_point(|&(at, _)| at < from),
            Bound::Excluded(&from) => items.partition_point(|&(at, _)| at <= from),
            Bound::Unbounded => 0,
        };
        let high = match span.end_bound() {
            Bound::Included(&until) => items.partition_point(|&(at, _)| at <= until),
            Bound::Excluded(&until) => items.partition_point(|&(at, _)| at < until),
            Bound::Unbounded => items.len(),
        };
        items.range(low..high.max(low)).copied()
    }
}

/// After a storm there is room for more than will come again soon.
fn give_back(items: &mut VecDeque<(u64, Identity)>) {
    if items.capacity() > SMALL && items.len() < items.capacity() / 8 {
        items.shrink_to(items.len() * 2);
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
        assert!(line.items().capacity() <= 200, "{}", line.items().capacity());
    }
}
