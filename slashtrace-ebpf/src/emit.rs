//! Writes records, and counts what could not be written: loss is never silent.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use slashtrace_ebpf::{Counter, ExitRecord, Field, Header, RecordKind, Tracked, WIRE_VERSION};

use crate::{
    maps::{COUNTERS, EVENTS},
    shares::may_add,
    task::{self, Address},
};

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

/// Submits a record of fixed size, on this user's account.
#[inline(always)]
pub fn submit_for<T: 'static>(uid: u32, record: T) {
    // SAFETY: a helper without arguments.
    if may_add(uid, size_of::<T>() as u64, unsafe { bpf_ktime_get_boot_ns() }) {
        submit(record);
    }
}

/// Submits the first `bytes` of a record, on this user's account.
#[inline(always)]
pub fn submit_bytes(uid: u32, now_ns: u64, bytes: &[u8]) {
    if !may_add(uid, bytes.len() as u64, now_ns) {
        return;
    }
    match EVENTS.output::<[u8]>(bytes, 0) {
        Ok(()) => count(Counter::Submitted),
        Err(_) => count(Counter::RingFull),
    }
}

/// Submits the end of a thread group.
#[inline(always)]
pub fn submit_exit(leader: Address, tgid: u32, known: &Tracked) {
    let (role, reads) = (known.role, known.reads);
    submit_for(
        known.owner,
        ExitRecord {
            header: header(RecordKind::Exit, size_of::<ExitRecord>()),
            // Not the map's: userspace may have put it there, rounded to a clock tick.
            start_ns: leader.read(Field::TaskStartBoottime),
            reads,
            tgid,
            role,
            status: task::wait_status(leader),
            reserved: 0,
        },
    );
}
