//! The same as `Option<Identity>` and `Option<u64>` in half the room: of what is kept for each live
//! worker there are many.

use super::Identity;

/// A pid that no process has: more than `PID_MAX_LIMIT` (include/linux/threads.h).
const NOBODY: u32 = u32::MAX;

/// A process, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
        assert_eq!(Maybe::from(Some(0)).get(), Some(0));
        assert_eq!(Maybe::from(None).get(), None);
        assert_eq!(Maybe::from(u64::MAX).get(), Some(u64::MAX - 1));
        assert_eq!(Maybe::default().replace(3), None);
    }
}
