//! The same as `Option<Identity>` and `Option<u64>` in half the room, and a small number in a quarter:
//! of what is kept for each live worker there are many.

use super::{Identity, Terminal};

/// A pid that no process has: more than `PID_MAX_LIMIT` (include/linux/threads.h).
const NOBODY: u32 = u32::MAX;

/// A process, or none. The order is that of [`Identity`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct MaybeId {
    pid: u32,
    /// Upper and lower half of the start time: an alignment of 4 bytes is enough.
    start_ns: [u32; 2],
}

impl MaybeId {
    pub(crate) fn get(self) -> Option<Identity> {
        let [high, low] = self.start_ns.map(u64::from);
        (self.pid != NOBODY).then_some(Identity { pid: self.pid, start_ns: (high << 32) | low })
    }

    pub(crate) fn or(self, other: Self) -> Self {
        if self.pid == NOBODY { other } else { self }
    }
}

impl Default for MaybeId {
    fn default() -> Self {
        Self { pid: NOBODY, start_ns: [0; 2] }
    }
}

impl From<Identity> for MaybeId {
    fn from(id: Identity) -> Self {
        Self { pid: id.pid, start_ns: [(id.start_ns >> 32) as u32, id.start_ns as u32] }
    }
}

impl From<Option<Identity>> for MaybeId {
    fn from(id: Option<Identity>) -> Self {
        id.map_or(Self::default(), Self::from)
    }
}

/// A controlling terminal, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MaybeTerminal {
    instance: Maybe,
    /// `u32::MAX` is none: devpts has far fewer indices.
    index: u32,
}

impl MaybeTerminal {
    const NO_INDEX: u32 = u32::MAX;

    pub(crate) fn get(self) -> Option<Terminal> {
        let Self { instance, index } = self;
        (index != Self::NO_INDEX).then_some(Terminal { instance: instance.get(), index })
    }

    pub(crate) fn or(self, other: Self) -> Self {
        if self.index == Self::NO_INDEX { other } else { self }
    }

    pub(crate) fn is_some(self) -> bool {
        self.index != Self::NO_INDEX
    }
}

impl From<Option<Terminal>> for MaybeTerminal {
    fn from(terminal: Option<Terminal>) -> Self {
        let index = terminal.map_or(Self::NO_INDEX, |it| it.index);
        Self {
            instance: terminal.and_then(|it| it.instance).map(Maybe::from).unwrap_or_default(),
            index,
        }
    }
}

/// A number below `u64::MAX`, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Maybe(u64);

impl Maybe {
    pub(crate) const NONE: Self = Self(u64::MAX);

    pub(crate) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0)
    }

    pub(crate) fn replace(&mut self, value: u64) -> Option<u64> {
        std::mem::replace(self, value.into()).get()
    }
}

impl Default for Maybe {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<u64> for Maybe {
    /// The one value that is taken for none becomes the one below.
    fn from(value: u64) -> Self {
        Self(value.min(u64::MAX - 1))
    }
}

impl From<Option<u64>> for Maybe {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::NONE, Self::from)
    }
}

/// A number below `u32::MAX`, or none. A larger one becomes the largest that fits: a size in KiB is
/// exact up to 4 TiB.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MaybeSmall(u32);

impl MaybeSmall {
    pub(crate) const NONE: Self = Self(u32::MAX);
    const MAX: u32 = u32::MAX - 1;

    pub(crate) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(u64::from(self.0))
    }
}

impl Default for MaybeSmall {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<u64> for MaybeSmall {
    fn from(value: u64) -> Self {
        Self(u32::try_from(value).map_or(Self::MAX, |value| value.min(Self::MAX)))
    }
}

impl From<Option<u64>> for MaybeSmall {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::NONE, Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_half_the_room() {
        assert_eq!((size_of::<MaybeId>(), size_of::<Option<Identity>>()), (12, 24));
        assert_eq!((size_of::<Maybe>(), size_of::<Option<u64>>()), (8, 16));
        for start_ns in [0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let id = Some(Identity { pid: 4_194_304, start_ns });
            assert_eq!(MaybeId::from(id).get(), id);
        }
        assert_eq!(MaybeId::from(None).get(), None);
        let ids = [(1, 9), (2, 0), (2, u64::from(u32::MAX)), (2, 1 << 32)];
        let ids = ids.map(|(pid, start_ns)| MaybeId::from(Identity { pid, start_ns }));
        assert!(ids.is_sorted(), "as the identities");
        assert_eq!((size_of::<MaybeTerminal>(), size_of::<Option<Terminal>>()), (16, 24));
        for instance in [None, Some(0), Some(24)] {
            let terminal = Some(Terminal { instance, index: 3 });
            assert_eq!(MaybeTerminal::from(terminal).get(), terminal);
            assert_eq!(MaybeTerminal::from(None).or(terminal.into()).get(), terminal);
        }
        assert_eq!(MaybeTerminal::from(None).get(), None);
        assert!(!MaybeTerminal::from(None).is_some());
        assert_eq!(Maybe::from(Some(0)).get(), Some(0));
        assert_eq!(Maybe::from(None).get(), None);
        assert_eq!(Maybe::from(u64::MAX).get(), Some(u64::MAX - 1));
        assert_eq!(Maybe::default().replace(3), None);
    }

    #[test]
    fn a_small_number_takes_a_quarter_and_a_larger_one_becomes_the_largest() {
        assert_eq!((size_of::<MaybeSmall>(), size_of::<Option<u64>>()), (4, 16));
        let largest = u64::from(u32::MAX) - 1;
        for value in [0, 1, 100_000, largest] {
            assert_eq!(MaybeSmall::from(Some(value)).get(), Some(value));
        }
        for value in [largest + 1, largest + 2, u64::MAX] {
            assert_eq!(MaybeSmall::from(value).get(), Some(largest));
        }
        assert_eq!(MaybeSmall::from(None).get(), None);
        assert_eq!(MaybeSmall::default().get(), None);
    }
}
