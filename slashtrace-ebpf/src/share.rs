use crate::TaskInfo;

/// Descendants of workers that can be tracked at once (entries of `DESCENDANTS`).
pub const DESCENDANTS_MAX: u32 = 16_384;

/// Workers, and processes above them, that are tracked for one user's workers at most. Root's are
/// not limited: who is root needs no table to blind a tracer.
pub const TRACKED_SHARE: u32 = 8_192;

/// Descendants of one user's workers that are tracked at most. Root's are not limited.
pub const DESCENDANTS_SHARE: u32 = 4_096;

/// Descendants of one worker that are tracked at most, root's as well. Where the worker itself has
/// ended they are counted to its user alone, who then has half of the share for what they fork.
pub const FAMILY_SHARE: u32 = 2_048;

/// Slots of the table of shares; a power of two. Users are spread over them by a number that is
/// drawn at the start, so that nobody can choose to be in another one's slot.
pub const SHARE_SLOTS: usize = 1_024;

/// How much of the tables is taken, by [`share_slot`] of the owner: value of `SHARES`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Shares {
    /// Entries of `TRACKED`.
    pub tracked: [u32; SHARE_SLOTS],
    /// Entries of `DESCENDANTS`.
    pub descendants: [u32; SHARE_SLOTS],
}

/// The slot of a user; `spread` is odd.
#[inline(always)]
pub const fn share_slot(uid: u32, spread: u32) -> usize {
    // The highest bits of a product depend on every bit of what is multiplied.
    let spread = uid.wrapping_mul(spread);
    ((spread ^ spread >> 16).wrapping_mul(0x9e37_79b1) >> 22) as usize & (SHARE_SLOTS - 1)
}

/// Signals of one number that one user sends to one target and that get a record each, in each window
/// of 2^[`SIGNAL_WINDOW_BITS`] ns. What is more is counted in `SIGNALLED`.
pub const SIGNALS_EACH: u32 = 8;

/// Signals to all targets of which one user gets records in each such window. Root is not limited.
pub const SIGNALS_OF_USER: u64 = 1_024;

/// Length of a window for signals (1.07 s), as a power of two of ns.
pub const SIGNAL_WINDOW_BITS: u32 = 30;

/// Sorts of signals that are counted at once (entries of `SIGNALLED`).
pub const SIGNALLED_MAX: u32 = 1_024;

/// Users whose rates are known at once; the least recently seen is forgotten.
pub const RATES_MAX: u32 = 256;

/// Part of the ring buffer that is everybody's. When more is taken, each user but root may add
/// [`RING_SHARE`] in a window of 2^[`SIGNAL_WINDOW_BITS`] ns.
pub const RING_COMMON: u64 = (crate::RING_BYTES / 2) as u64;

/// What one user may add to the rest of the ring buffer in a window, bytes.
pub const RING_SHARE: u64 = (crate::RING_BYTES / 8) as u64;

/// Which signals are counted together: key of `SIGNALLED`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct SignalKey {
    /// Thread group id of the target.
    pub tgid: u32,
    /// Signal number.
    pub signal: u32,
    /// Real user id of the sender.
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Signals of a sort: value of `SIGNALLED`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct SignalBurst {
    /// Start time of the target, ns.
    pub start_ns: u64,
    /// The window that `emitted` is of.
    pub window: u64,
    /// When the first one was sent that is in `held`, ns of the boot clock.
    pub first_ns: u64,
    /// When the last of them was.
    pub last_ns: u64,
    /// How many had a record in this window.
    pub emitted: u32,
    /// How many were sent without a record, since userspace took the entry out last.
    pub held: u32,
    /// Role of the target.
    pub role: u32,
    /// `si_code` of the first that is in `held`.
    pub si_code: i32,
    /// `TRACE_SIGNAL_*` of it.
    pub result: u32,
    /// Why it was sent, as in a record.
    pub origin: u32,
    /// Who sent it.
    pub sender: TaskInfo,
}

/// What one user did in a window: value of `RATES`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Rate {
    /// The window.
    pub window: u64,
    /// Signals that had a record.
    pub signals: u64,
    /// Bytes that were added to the ring buffer beyond [`RING_COMMON`].
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn users_next_to_one_another_have_slots_of_their_own() {
        for spread in [0x9e37_79b1, 0x85eb_ca6b, 1 << 16 | 1] {
            let slots: Vec<usize> = (1_000..1_010).map(|uid| share_slot(uid, spread)).collect();
            for (at, slot) in slots.iter().enumerate() {
                assert!(!slots[..at].contains(slot), "{slots:?}");
            }
        }
    }
}
