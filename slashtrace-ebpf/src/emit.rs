//! Writes records, tracks processes, and counts what could not be done: loss is never silent.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use slashtrace_ebpf::{Counter, Header, RecordKind, Role, Tracked, WIRE_VERSION, is_same_start};

use crate::maps::{COUNTERS, EVENTS, TRACKED};

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the value is this CPU's own and has an element for each counter. Not atomic
        // (the target's atomics have no add on stable Rust): if the signal program interrupts
        // another one between load and store, one count of the same counter is lost.
        unsafe { (*counters)[counter as usize] += 1 };
    }
}

/// A header for a record of `size` bytes that happens now.
#[inline(always)]
pub fn header(kind: RecordKind, size: usize) -> Header {
    Header {
        version: WIRE_VERSION,
        kind: kind as u8,
        reserved: 0,
        size: size as u32,
        // SAFETY: a helper without arguments.
        boottime_ns: unsafe { bpf_ktime_get_boot_ns() },
    }
}

/// Submits a record of fixed size.
#[inline(always)]
pub fn submit<T: 'static>(record: T) {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(0);
            count(Counter::Submitted);
        }
        None => count(Counter::RingFull),
    }
}

/// Submits the first `bytes` of a record.
#[inline(always)]
pub fn submit_bytes(bytes: &[u8]) {
    match EVENTS.output::<[u8]>(bytes, 0) {
        Ok(()) => count(Counter::Submitted),
        Err(_) => count(Counter::RingFull),
    }
}

/// Starts tracking a process, replacing what was known of that pid.
#[inline(always)]
pub fn track(tgid: u32, tracked: &Tracked) {
    if TRACKED.insert(tgid, tracked, 0).is_err() {
        count(Counter::MapFull);
    }
}

/// Starts tracking a process above a worker unless it is tracked already (a gateway may itself be
/// a worker's descendant, which must stay one).
#[inline(always)]
pub fn track_above(tgid: u32, start_ns: u64, role: Role) {
    if let Some(known) = TRACKED.get_ptr_mut(tgid) {
        // SAFETY: a map value that the verifier knows the size of.
        let known = unsafe { &mut *known };
        if is_same_start(known.start_ns, start_ns) {
            if known.role == Role::Ancestor as u32 && role == Role::Gateway {
                known.role = role as u32;
            }
            return;
        }
    }
    track(tgid, &Tracked { start_ns, worker_start_ns: 0, reads: 0, worker: 0, role: role as u32 });
}
