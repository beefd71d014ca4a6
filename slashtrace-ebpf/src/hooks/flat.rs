//! Threads of gateways that serve many terminals from one process: which thread forked a worker, where
//! that thread came from, and when it woke the event loop. Called by the programs of fork and exit, and
//! by `send`. Userspace says which gateways there are; everybody else is told apart by one word.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};
use slashtrace_ebpf::{
    ArmedThread, CLONES_MAX, CloneInfo, ClonedThread, Counter, Field, FlatGateway, RecordKind,
    ThreadAct, ThreadActRecord, ThreadForkRecord, gateway_bit,
};

use crate::{
    emit::{count, header, submit},
    maps::{ARMED, GATEWAY_BITS, GATEWAYS, NEWEST, THREADS},
    task::Kernel,
};

/// Threads that one thread cloned for one request, of which its reply is noted.
const SIBLINGS_MAX: usize = 8;

/// Whether a thread group may be one of the gateways. `false` is certain.
#[inline(always)]
pub fn may_be_gateway(tgid: u32) -> bool {
    // SAFETY: a value of an array map. Volatile: userspace writes it.
    let bits = GATEWAY_BITS.get_ptr(0).map_or(0, |bits| unsafe { core::ptr::read_volatile(bits) });
    bits & gateway_bit(tgid) != 0
}

/// The gateway with this thread group id.
#[inline(always)]
pub fn gateway(tgid: u32) -> Option<*mut FlatGateway> {
    if may_be_gateway(tgid) { GATEWAYS.get_ptr_mut(tgid) } else { None }
}

/// A thread was cloned (`CLONE_THREAD`); runs in the one that cloned it.
#[inline(always)]
pub fn cloned(creator: Kernel, thread: Kernel, tgid: u32) {
    if gateway(tgid).is_none() {
        return;
    }
    let tid: u32 = thread.read(Field::TaskPid);
    let by: u32 = creator.read(Field::TaskPid);
    // SAFETY: the value is copied.
    let sibling = unsafe { NEWEST.get(by) }.copied().unwrap_or(0);
    let made = ClonedThread {
        start_ns: thread.read(Field::TaskStartBoottime),
        creator_start_ns: creator.read(Field::TaskStartBoottime),
        // SAFETY: a helper without arguments.
        at_ns: unsafe { bpf_ktime_get_boot_ns() },
        replied_ns: 0,
        creator: by,
        tgid,
        sibling,
        reserved: 0,
    };
    // What an earlier thread of that id left.
    let _ = ARMED.remove(tid);
    let _ = NEWEST.remove(tid);
    if THREADS.insert(tid, made, 0).is_err() || NEWEST.insert(by, tid, 0).is_err() {
        count(Counter::ThreadNotKept);
    }
}

/// A thread of `tgid` forked the process `child`.
#[inline(always)]
pub fn forked(forker: Kernel, tgid: u32, child: u32, child_start_ns: u64) {
    if gateway(tgid).is_none() {
        return;
    }
    let tid: u32 = forker.read(Field::TaskPid);
    let start_ns: u64 = forker.read(Field::TaskStartBoottime);
    let mut record = ThreadForkRecord {
        header: header(RecordKind::ThreadFork, size_of::<ThreadForkRecord>()),
        child_start_ns,
        clones: [CloneInfo::NONE; CLONES_MAX],
        child,
        tgid,
        tid,
        clones_len: 0,
    };
    let (mut above, mut above_start_ns) = (tid, start_ns);
    let mut at = 0;
    while at < CLONES_MAX {
        // SAFETY: the value is copied; an entry that is replaced meanwhile fails the comparison, or is
        // of a thread that was cloned this moment and forked nobody.
        let Some(made) = (unsafe { THREADS.get(above) }) else { break };
        if made.tgid != tgid || made.start_ns != above_start_ns {
            break;
        }
        record.clones[at] = CloneInfo {
            at_ns: made.at_ns,
            replied_ns: made.replied_ns,
            by: made.creator,
            reserved: 0,
        };
        above = made.creator;
        above_start_ns = made.creator_start_ns;
        at += 1;
        record.clones_len = at as u32;
    }
    if ARMED.insert(tid, ArmedThread { start_ns, tgid, reserved: 0 }, 0).is_err() {
        count(Counter::ThreadNotKept);
    }
    submit(record);
}

/// A thread exits.
#[inline(always)]
pub fn exited(tgid: u32) {
    if !may_be_gateway(tgid) {
        return;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: only whether it is there matters.
    if unsafe { ARMED.get(tid) }.is_some_and(|armed| armed.tgid == tgid) {
        let _ = ARMED.remove(tid);
        act(tgid, tid, ThreadAct::Exited);
    }
}

/// The current thread woke the event loop: it sent one byte on a socket that has no port.
#[inline(always)]
pub fn woke(tgid: u32, tid: u32, now_ns: u64, gateway: *mut FlatGateway) {
    // SAFETY: the value is copied.
    if let Some(newest) = unsafe { NEWEST.get(tid) }.copied() {
        let _ = NEWEST.remove(tid);
        let (mut thread, mut at) = (newest, 0);
        while at < SIBLINGS_MAX && thread != 0 {
            let Some(made) = THREADS.get_ptr_mut(thread) else { break };
            // SAFETY: a map value that the verifier knows the size of.
            let made = unsafe { &mut *made };
            if made.creator != tid || made.replied_ns != 0 {
                break;
            }
            made.replied_ns = now_ns;
            thread = made.sibling;
            at += 1;
        }
    }
    // SAFETY: as above.
    if unsafe { ARMED.get(tid) }.is_some_and(|armed| armed.tgid == tgid) {
        // SAFETY: a map value that the verifier knows the size of. Two threads that wake it at once
        // both open it for as long.
        unsafe {
            (*gateway).open_until_ns = now_ns.wrapping_add(slashtrace_ebpf::REPLY_WINDOW_NS);
            (*gateway).budget = slashtrace_ebpf::REPLY_MESSAGES_MAX;
        }
        act(tgid, tid, ThreadAct::Woke);
    }
}

#[inline(always)]
fn act(tgid: u32, tid: u32, act: ThreadAct) {
    submit(ThreadActRecord {
        header: header(RecordKind::ThreadAct, size_of::<ThreadActRecord>()),
        tgid,
        tid,
        act: act as u32,
        port: 0,
    });
}
