//! What one user's processes may take of what all share: places in the tables, records of signals, and
//! the ring buffer once it fills. Who has taken its share loses its own events and nobody else's.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use slashtrace_ebpf::{
    Counter, RING_COMMON, RING_SHARE, Rate, SHARE_SLOTS, SIGNAL_WINDOW_BITS, SIGNALS_OF_USER,
    share_slot,
};

use crate::{
    emit::count,
    maps::{EVENTS, RATES, SHARE_SPREAD, SHARES},
};

/// `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
const AVAILABLE: u64 = 0;

/// Adds to a number that others change at the same time.
#[inline(always)]
pub fn add(number: *mut u32, change: i64) {
    // SAFETY: `BPF_ATOMIC | BPF_ADD` on four aligned bytes of a map's value. As an instruction,
    // because the target has no compare-and-swap and so no atomics in `core`.
    unsafe { asm!("lock *(u32 *)({} + 0) += {}", in(reg) number, in(reg) change) };
}

/// A number that others change.
#[inline(always)]
pub fn load(number: *const u32) -> u32 {
    // SAFETY: callers pass a place in a map's value.
    unsafe { core::ptr::read_volatile(number) }
}

/// How many entries of a table a user has. Where it was counted wrongly it may be less than none.
#[inline(always)]
pub fn taken(uid: u32, of_descendants: bool) -> Option<*mut u32> {
    let shares = SHARES.get_ptr_mut(0)?.cast::<u32>();
    let slot = share_slot(uid, SHARE_SPREAD.load()) + if of_descendants { SHARE_SLOTS } else { 0 };
    // SAFETY: both arrays of `Shares` are of this length, one after the other.
    Some(unsafe { shares.add(slot) })
}

/// Real user id of the current task.
#[inline(always)]
pub fn current_user() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// Whether a user may have one more record of a signal now.
#[inline(always)]
pub fn may_record_signal(uid: u32, now_ns: u64) -> bool {
    if uid == 0 {
        return true;
    }
    let Some(rate) = rate(uid, now_ns) else { return true };
    // SAFETY: a map value that the verifier knows the size of. Two CPUs may count one for two.
    unsafe {
        (*rate).signals += 1;
        (*rate).signals <= SIGNALS_OF_USER
    }
}

/// Whether a record about a user's process may be added to the ring buffer; if not, that is counted.
#[inline(always)]
pub fn may_add(uid: u32, bytes: u64, now_ns: u64) -> bool {
    if uid == 0 || EVENTS.query(AVAILABLE) < RING_COMMON {
        return true;
    }
    let Some(rate) = rate(uid, now_ns) else { return true };
    // SAFETY: as above.
    let may = unsafe {
        (*rate).bytes += bytes;
        (*rate).bytes <= RING_SHARE
    };
    if !may {
        count(Counter::RingShare);
    }
    may
}

/// What a user did in this window.
#[inline(always)]
fn rate(uid: u32, now_ns: u64) -> Option<*mut Rate> {
    let window = now_ns >> SIGNAL_WINDOW_BITS;
    if RATES.get_ptr(uid).is_none() {
        let _ = RATES.insert(uid, Rate { window, signals: 0, bytes: 0 }, 0);
    }
    let rate = RATES.get_ptr_mut(uid)?;
    // SAFETY: a map value that the verifier knows the size of.
    unsafe {
        if (*rate).window != window {
            *rate = Rate { window, signals: 0, bytes: 0 };
        }
    }
    Some(rate)
}
