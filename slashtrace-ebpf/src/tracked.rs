//! The tables of tracked processes, and the marks that keep everybody else from looking into them.
//!
//! A mark, and a place of the owner's share, are counted before an entry is inserted and counted back
//! after it was removed, so that an entry always has its mark. Whoever removes an entry reports the
//! end.

use aya_ebpf::maps::HashMap;
use slashtrace_ebpf::{
    Counter, DESCENDANTS_SHARE, FAMILY_SHARE, Role, TRACKED_SHARE, Tracked, is_same_start,
    mark_slot,
};

use crate::{
    emit::count,
    maps::{DESCENDANTS, MARKS, TRACKED},
    shares::{self, add, load},
};

/// `BPF_NOEXIST` (include/uapi/linux/bpf.h).
const NOEXIST: u64 = 1;

/// Whether a thread group may be tracked. `false` is certain.
#[inline(always)]
pub fn is_marked(tgid: u32) -> bool {
    mark(tgid).is_some_and(|mark| load(mark) != 0)
}

/// What is known of the thread group that started at `start_ns`. An entry that an earlier process
/// of that pid left is removed.
#[inline(always)]
pub fn known(tgid: u32, start_ns: u64) -> Option<*mut Tracked> {
    if !is_marked(tgid) {
        return None;
    }
    let known = match TRACKED.get_ptr_mut(tgid) {
        Some(known) => known,
        None => DESCENDANTS.get_ptr_mut(tgid)?,
    };
    // SAFETY: a map value that the verifier knows the size of.
    if is_same_start(unsafe { (*known).start_ns }, start_ns) {
        return Some(known);
    }
    if untrack(tgid) {
        count(Counter::StaleEntry);
    }
    None
}

/// Starts tracking a worker, or a process above one, of which nothing is known. False if there is no
/// place for it, which is counted.
#[inline(always)]
pub fn track(tgid: u32, tracked: &Tracked) -> bool {
    let Some(taken) = shares::taken(tracked.owner, false) else { return false };
    if tracked.owner != 0 && load(taken).cast_signed() >= TRACKED_SHARE.cast_signed() {
        count(Counter::ShareFull);
        return false;
    }
    insert(&TRACKED, tgid, tracked, taken)
}

/// Starts tracking a child of a tracked process. False if there is no place for it, which is counted.
#[inline(always)]
pub fn track_child(tgid: u32, tracked: &mut Tracked) -> bool {
    let Some(taken) = shares::taken(tracked.owner, true) else { return false };
    let mut share = DESCENDANTS_SHARE;
    let family = family_of(tracked);
    match family {
        Some(family) if load(family).cast_signed() >= FAMILY_SHARE.cast_signed() => {
            count(Counter::ShareFull);
            return false;
        }
        Some(_) => {}
        // The worker has ended, or is not tracked.
        None => share /= 2,
    }
    if tracked.owner != 0 && load(taken).cast_signed() >= share.cast_signed() {
        count(Counter::ShareFull);
        return false;
    }
    tracked.family = u32::from(family.is_some());
    if let Some(family) = family {
        add(family, 1);
    }
    let done = insert(&DESCENDANTS, tgid, tracked, taken);
    if !done && let Some(family) = family {
        add(family, -1);
    }
    done
}

/// How many descendants are counted to the worker that a process descends from, if that one is there.
#[inline(always)]
fn family_of(descendant: &Tracked) -> Option<*mut u32> {
    let worker = TRACKED.get_ptr_mut(descendant.worker)?;
    // SAFETY: a map value that the verifier knows the size of.
    unsafe {
        ((*worker).start_ns == descendant.worker_start_ns).then_some(&raw mut (*worker).family)
    }
}

#[inline(always)]
fn insert(table: &HashMap<u32, Tracked>, tgid: u32, tracked: &Tracked, taken: *mut u32) -> bool {
    add_mark(tgid, 1);
    add(taken, 1);
    if table.insert(tgid, tracked, NOEXIST).is_ok() {
        return true;
    }
    add_mark(tgid, -1);
    add(taken, -1);
    // A full map and an entry that is there are both refused; userspace may have been faster.
    let there = table.get_ptr(tgid).is_some();
    if !there {
        count(Counter::MapFull);
    }
    there
}

/// Stops tracking a process; false if it was not tracked, or somebody else was faster.
#[inline(always)]
pub fn untrack(tgid: u32) -> bool {
    let worker = remove(&TRACKED, tgid, false);
    remove(&DESCENDANTS, tgid, true) || worker
}

/// As [`untrack`], of a descendant that becomes something else.
#[inline(always)]
pub fn untrack_descendant(tgid: u32) -> bool {
    remove(&DESCENDANTS, tgid, true)
}

#[inline(always)]
fn remove(table: &HashMap<u32, Tracked>, tgid: u32, of_descendants: bool) -> bool {
    let Some(known) = table.get_ptr(tgid) else { return false };
    // SAFETY: a map value that the verifier knows the size of. If it is replaced right now a place is
    // given back to the wrong owner; userspace counts again now and then.
    let known = unsafe { *known };
    if table.remove(tgid).is_err() {
        return false;
    }
    add_mark(tgid, -1);
    if let Some(taken) = shares::taken(known.owner, of_descendants) {
        add(taken, -1);
    }
    if of_descendants
        && known.family != 0
        && let Some(family) = family_of(&known)
    {
        add(family, -1);
    }
    true
}

/// Starts tracking a process above a worker unless it is tracked already (a gateway may itself be
/// a worker's descendant, which must stay one). True if that is new.
#[inline(always)]
pub fn track_above(tgid: u32, start_ns: u64, role: Role, owner: u32) -> bool {
    if let Some(known) = known(tgid, start_ns) {
        // SAFETY: a map value that the verifier knows the size of.
        let known = unsafe { &mut *known };
        if known.role == Role::Ancestor as u32 && role == Role::Gateway {
            known.role = role as u32;
        }
        return false;
    }
    let role = role as u32;
    let tracked =
        Tracked { start_ns, worker_start_ns: 0, reads: 0, worker: 0, role, owner, family: 0 };
    track(tgid, &tracked)
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
        add(mark, change);
    }
}
