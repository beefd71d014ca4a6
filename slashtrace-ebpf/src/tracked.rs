//! The table of tracked processes, and the marks that keep everybody else from looking into it.
//!
//! A mark is counted before its entry is inserted and counted back after it was removed, so that
//! an entry always has its mark. Whoever removes an entry reports the end.

use core::arch::asm;

use slashtrace_ebpf::{Counter, Role, Tracked, is_same_start, mark_slot};

use crate::{
    emit::count,
    maps::{MARKS, TRACKED},
};

/// `BPF_NOEXIST` and `BPF_EXIST` (include/uapi/linux/bpf.h).
const NOEXIST: u64 = 1;
const EXIST: u64 = 2;

/// Whether a thread group may be tracked. `false` is certain.
#[inline(always)]
pub fn is_marked(tgid: u32) -> bool {
    // SAFETY: the slot is within the value. Volatile: others write it.
    mark(tgid).is_some_and(|mark| unsafe { core::ptr::read_volatile(mark) } != 0)
}

/// What is known of the thread group that started at `start_ns`. An entry that an earlier process
/// of that pid left is removed.
#[inline(always)]
pub fn known(tgid: u32, start_ns: u64) -> Option<*mut Tracked> {
    if !is_marked(tgid) {
        return None;
    }
    let known = TRACKED.get_ptr_mut(tgid)?;
    // SAFETY: a map value that the verifier knows the size of.
    if is_same_start(unsafe { (*known).start_ns }, start_ns) {
        return Some(known);
    }
    if untrack(tgid) {
        count(Counter::StaleEntry);
    }
    None
}

/// Starts tracking a process, replacing what was known of that pid.
#[inline(always)]
pub fn track(tgid: u32, tracked: &Tracked) {
    add_mark(tgid, 1);
    // A full map and an entry that is there are both refused. The third try is for an entry that
    // was removed after the first.
    if TRACKED.insert(tgid, tracked, NOEXIST).is_ok() {
        return;
    }
    if TRACKED.insert(tgid, tracked, EXIST).is_ok() {
        add_mark(tgid, -1);
        return;
    }
    if TRACKED.insert(tgid, tracked, NOEXIST).is_err() {
        add_mark(tgid, -1);
        count(Counter::MapFull);
    }
}

/// Stops tracking a process; false if it was not tracked, or somebody else was faster.
#[inline(always)]
pub fn untrack(tgid: u32) -> bool {
    let removed = TRACKED.remove(tgid).is_ok();
    if removed {
        add_mark(tgid, -1);
    }
    removed
}

/// Starts tracking a process above a worker unless it is tracked already (a gateway may itself be
/// a worker's descendant, which must stay one). True if that is new.
#[inline(always)]
pub fn track_above(tgid: u32, start_ns: u64, role: Role) -> bool {
    if let Some(known) = known(tgid, start_ns) {
        // SAFETY: a map value that the verifier knows the size of.
        let known = unsafe { &mut *known };
        if known.role == Role::Ancestor as u32 && role == Role::Gateway {
            known.role = role as u32;
        }
        return false;
    }
    track(tgid, &Tracked { start_ns, worker_start_ns: 0, reads: 0, worker: 0, role: role as u32 });
    true
}

#[inline(always)]
fn mark(tgid: u32) -> Option<*mut u32> {
    let marks = MARKS.get_ptr_mut(0)?;
    // SAFETY: the slot is within the value.
    Some(unsafe { marks.cast::<u32>().add(mark_slot(tgid)) })
}

#[inline(always)]
fn add_mark(tgid: u32, change: i64) {
    if let Some(mark) = mark(tgid) {
        // SAFETY: `BPF_ATOMIC | BPF_ADD` on four aligned bytes of a map's value. As an instruction,
        // because the target has no compare-and-swap and so no atomics in `core`.
        unsafe { asm!("lock *(u32 *)({} + 0) += {}", in(reg) mark, in(reg) change) };
    }
}
