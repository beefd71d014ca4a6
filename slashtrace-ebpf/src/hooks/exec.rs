//! `sched_process_exec` (fs/exec.c, `exec_binprm`): the new program's address space and argument
//! area are in place, and a thread that executed has become the leader of its group.

use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::bpf_loop,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::info;
use slashtrace_ebpf::{
    ARGV_MAX, CHAIN_MAX, Counter, EXEC_TAIL_MAX, ExecRecord, FORK_SLOTS, FORKED_AS_SIBLING, Field,
    LONG_ARGV_MAX, LONG_ARGV_WINDOW_BITS, LongArgvRecord, ParentKnownBy, RecordKind, Role,
    TaskInfo, Tracked, argv_padded,
};

use crate::{
    emit::{count, header, submit, submit_bytes, submit_exit},
    filter,
    maps::{ARGV_MIN, Begun, EXEC_SCRATCH, ExecScratch, FORKS, LOG, LONG_ARGV},
    task::{self, Address, Kernel},
    tracked::{is_marked, known, track, track_above, untrack, untrack_descendant},
};

/// It was forked and has executed nothing (include/linux/sched.h).
const PF_FORKNOEXEC: u32 = 0x40;

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    count(Counter::ExecSeen);
    let task = Kernel::new(ctx.arg::<*const c_void>(0));
    let tgid: u32 = task.read(Field::TaskTgid);
    let mm = task.follow(Field::TaskMm);
    if mm.is_null() {
        return;
    }
    let arg_start: u64 = mm.read(Field::MmArgStart);
    let argv_bytes = mm.read::<u64>(Field::MmArgEnd).wrapping_sub(arg_start);

    let marked = is_marked(tgid);
    if !marked && argv_bytes < ARGV_MIN.load() {
        return;
    }
    let Some(scratch) = EXEC_SCRATCH.get_ptr_mut(0) else {
        count(Counter::NoScratch);
        return;
    };
    // SAFETY: this CPU's own value, and this program does not nest on a CPU.
    let scratch = unsafe { &mut *scratch };
    if !filter::read_argv(scratch, arg_start, argv_bytes) {
        count(Counter::ArgvUnreadable);
        return;
    }
    let matched = filter::may_match(scratch) && filter::matches(scratch);
    if !matched {
        if argv_bytes > ARGV_MAX as u64 && filter::may_match_behind(scratch, arg_start, argv_bytes)
        {
            count(Counter::ArgvNotSearched);
            report_long_argv(task.address(), tgid);
        }
        if !marked {
            return;
        }
    }
    // By address: the verifier comes here from each exit of the loops above, and would look the
    // structure up each time.
    let task = task.address();
    let start_ns: u64 = task.read(Field::TaskStartBoottime);
    // SAFETY: a map value that the verifier knows the size of.
    let before = known(tgid, start_ns).map(|known| unsafe { &*known });
    let role_before = before.map_or(0, |known| known.role);
    if !matched && role_before == 0 {
        return;
    }

    let record = &mut scratch.record;
    record.matched = u8::from(matched);
    record.role_before = role_before;
    record.worker_before = before.map_or(0, |known| known.worker);
    record.worker_before_start_ns = before.map_or(0, |known| known.worker_start_ns);
    record.parent_known_by = 0;
    record.reparented = 0;
    record.forker_gone = 0;
    record.argv_bytes = argv_bytes;
    record.forker_start_ns = 0;
    record.forker = 0;
    record.chain_len = 0;
    record.above = 0;
    record.above_start_ns = 0;
    record.forked_only = 0;
    task::describe(task, &mut record.task);
    if matched {
        count(Counter::Matched);
        if argv_bytes > ARGV_MAX as u64 {
            count(Counter::ArgvTruncated);
        }
        // Of whom nothing is kept nothing is said: nobody would be told of its end.
        if !track_worker(tgid, start_ns, role_before, scratch.record.task.uid) {
            return;
        }
        follow_parents(task, tgid, start_ns, scratch);
    }
    if LOG.load() != 0 {
        let forker = scratch.record.forker;
        info!(ctx, "exec: {} matched {}, forked by {}", tgid, u32::from(matched), forker);
    }
    submit_exec(scratch);
    if matched {
        end_what_ended(scratch);
    }
}

/// Reports an exec whose arguments are longer than what is searched, so that userspace looks at the
/// rest of them; so many at a time, and no more. Two CPUs may count the same number: then a few more
/// are reported.
#[inline(always)]
fn report_long_argv(task: Address, tgid: u32) {
    let header = header(RecordKind::LongArgv, size_of::<LongArgvRecord>());
    let Some(window) = LONG_ARGV.get_ptr_mut(0) else { return };
    // SAFETY: a map value that the verifier knows the size of.
    let [began, reported] = unsafe { &mut *window };
    let now = header.boottime_ns >> LONG_ARGV_WINDOW_BITS;
    if *began != now {
        *began = now;
        *reported = 0;
    }
    if *reported >= LONG_ARGV_MAX {
        count(Counter::LongArgvUnreported);
        return;
    }
    *reported += 1;
    let is_last = u32::from(*reported == LONG_ARGV_MAX);
    let start_ns: u64 = task.read(Field::TaskStartBoottime);
    let mut record = LongArgvRecord {
        header,
        start_ns,
        forker_start_ns: 0,
        tgid,
        forker: 0,
        parent_known_by: ParentKnownBy::RealParent as u32,
        is_last,
    };
    match FORKS.get(tgid & (FORK_SLOTS - 1)) {
        Some(slot) if slot.child == tgid && slot.child_start_ns == start_ns => {
            record.forker = slot.parent & !FORKED_AS_SIBLING;
            record.forker_start_ns = slot.parent_start_ns;
            record.parent_known_by = ParentKnownBy::Fork as u32;
        }
        _ => {
            let parent = task.follow(Field::TaskRealParent).follow(Field::TaskGroupLeader);
            record.forker = parent.read(Field::TaskTgid);
            record.forker_start_ns = parent.read(Field::TaskStartBoottime);
        }
    }
    submit(record);
}

/// Submits the record with as much of its tail as there is.
#[inline(always)]
fn submit_exec(scratch: &mut ExecScratch) {
    let chain = scratch.record.chain_len as usize * size_of::<TaskInfo>();
    let tail = (argv_padded(filter::length(scratch)) + chain).min(EXEC_TAIL_MAX);
    let size = size_of::<ExecRecord>() + tail;
    scratch.record.header = header(RecordKind::Exec, size);
    let (uid, now_ns) = (scratch.record.task.uid, scratch.record.header.boottime_ns);
    // SAFETY: record and tail are one after the other, and the tail is at most its size.
    let bytes = unsafe { core::slice::from_raw_parts(core::ptr::from_ref(scratch).cast(), size) };
    submit_bytes(uid, now_ns, bytes);
}

const _: () = assert!(core::mem::offset_of!(ExecScratch, tail) == size_of::<ExecRecord>());

/// Finds out who forked the worker, describes its `real_parent` and what is above that, and tracks
/// them from this moment on, so that the end of a gateway is seen even if it comes right after. Who
/// has ended is not tracked: no exit would remove it again.
#[inline(always)]
fn follow_parents(task: Address, tgid: u32, start_ns: u64, scratch: &mut ExecScratch) {
    let current = task.follow(Field::TaskRealParent).follow(Field::TaskGroupLeader);
    let parent: u32 = current.read(Field::TaskTgid);
    let parent_start_ns: u64 = current.read(Field::TaskStartBoottime);
    let record = &mut scratch.record;
    record.forker = parent;
    record.forker_start_ns = parent_start_ns;
    record.parent_known_by = ParentKnownBy::RealParent as u8;
    match FORKS.get(tgid & (FORK_SLOTS - 1)) {
        // Who clones with CLONE_PARENT passes its child on to its own parent.
        Some(slot) if slot.child == tgid && slot.child_start_ns == start_ns => {
            if slot.parent & FORKED_AS_SIBLING == 0 {
                record.parent_known_by = ParentKnownBy::Fork as u8;
                record.forker = slot.parent;
                record.forker_start_ns = slot.parent_start_ns;
            }
            if record.forker != parent || record.forker_start_ns != parent_start_ns {
                record.reparented = 1;
                // A child gets another parent than its forker when the last thread of that one
                // exits (`forget_original_parent`, kernel/exit.c).
                record.forker_gone = 1;
            }
        }
        _ => count(Counter::ForkerForgotten),
    }
    match FORKS.get(record.forker & (FORK_SLOTS - 1)) {
        Some(slot)
            if slot.child == record.forker && slot.child_start_ns == record.forker_start_ns =>
        {
            record.above = slot.parent & !FORKED_AS_SIBLING;
            record.above_start_ns = slot.parent_start_ns;
        }
        _ => {}
    }
    if record.reparented == 0 {
        let flags: u32 = current.read(Field::TaskFlags);
        record.forked_only = flags & PF_FORKNOEXEC;
    }

    let mut climb = Climb { current: current.0, scratch };
    // A loop by helper: its body is verified once or twice, where a plain loop is verified as often
    // as it may run (230,000 instructions against 40,000).
    // SAFETY: the callback has the signature that the helper calls, and takes a `Climb`.
    unsafe { bpf_loop(CHAIN_MAX as u32, above as *mut c_void, (&raw mut climb).cast(), 0) };
}

/// State of the way up from a worker's parent. Nothing in it is a number that the verifier knows:
/// before Linux 6.7 it took what was known in the first run of the body for known in all.
#[repr(C)]
struct Climb {
    /// Address of the `task_struct` that is next.
    current: u64,
    scratch: *mut ExecScratch,
}

/// A place in the chain. The loops run at most `CHAIN_MAX` times; the mask is for the verifier, which
/// loses a comparison where the compiler widens the number again.
#[inline(always)]
fn place(index: u32) -> usize {
    const { assert!(CHAIN_MAX.is_power_of_two()) };
    index as usize & (CHAIN_MAX - 1)
}

/// One process above the worker; returns 1 to stop.
unsafe extern "C" fn above(index: u32, climb: *mut c_void) -> c_long {
    // SAFETY: `follow_parents` passes a `Climb` that outlives the loop.
    let climb = unsafe { &mut *climb.cast::<Climb>() };
    // SAFETY: this CPU's own value.
    let scratch = unsafe { &mut *climb.scratch };
    let current = Address(climb.current);
    let index = place(index);
    if current.is_null() {
        return 1;
    }
    let is_parent = index == 0;
    scratch.begun[index] = Begun { leader: current.0, tgid: 0, role: 0 };
    let at = argv_padded(filter::length(scratch)).min(ARGV_MAX) + index * size_of::<TaskInfo>();
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "`at` is a multiple of 8, and so is the tail's place"
    )]
    // SAFETY: at most the last of `CHAIN_MAX` places behind `ARGV_MAX` bytes, at a multiple of 8.
    let info = unsafe { &mut *scratch.tail.as_mut_ptr().add(at).cast::<TaskInfo>() };
    task::describe(current, info);
    scratch.record.chain_len = index as u32 + 1;
    let tgid = info.tgid;
    // A reaper's ancestors say nothing of the worker.
    if scratch.record.reparented == 0 && (is_parent || tgid > 1) {
        let role = if is_parent { Role::Gateway } else { Role::Ancestor };
        let owner = scratch.record.task.uid;
        if task::is_ending(current) {
            scratch.record.forker_gone |= u8::from(is_parent);
        } else if track_above(tgid, info.start_ns, role, owner) {
            scratch.begun[index].tgid = tgid;
            scratch.begun[index].role = role as u32;
        }
    }
    if tgid <= 1 || task::leads_session(current) {
        return 1;
    }
    climb.current = current.follow(Field::TaskRealParent).follow(Field::TaskGroupLeader).0;
    0
}

/// Reports the end of those above the worker that ended while they were about to be tracked. Either
/// the exit program saw the mark, or this sees that `signal->live` is zero.
#[inline(always)]
fn end_what_ended(scratch: &mut ExecScratch) {
    let mut climb = Climb { current: 0, scratch };
    // SAFETY: as above.
    unsafe { bpf_loop(CHAIN_MAX as u32, end_if_ended as *mut c_void, (&raw mut climb).cast(), 0) };
}

/// One process of the chain; returns 1 to stop.
unsafe extern "C" fn end_if_ended(index: u32, climb: *mut c_void) -> c_long {
    // SAFETY: `end_what_ended` passes a `Climb` that outlives the loop.
    let scratch = unsafe { &*(*climb.cast::<Climb>()).scratch };
    let index = place(index);
    if index >= scratch.record.chain_len as usize {
        return 1;
    }
    let Begun { leader, tgid, role } = scratch.begun[index];
    let leader = Address(leader);
    if role != 0 && task::is_ending(leader) && untrack(tgid) {
        let owner = scratch.record.task.uid;
        let ended = Tracked {
            start_ns: 0,
            worker_start_ns: 0,
            reads: 0,
            worker: 0,
            role,
            owner,
            family: 0,
        };
        submit_exit(leader, tgid, &ended);
    }
    0
}

/// Tracks a worker; false if there is no place for it. Then it stays what it was before.
#[inline(always)]
fn track_worker(tgid: u32, start_ns: u64, role_before: u32, owner: u32) -> bool {
    if role_before == Role::Worker as u32 {
        return true;
    }
    let role = Role::Worker as u32;
    if role_before != 0 && role_before != Role::Descendant as u32 {
        return become_worker(tgid, start_ns);
    }
    let worker = Tracked {
        start_ns,
        worker_start_ns: start_ns,
        reads: 0,
        worker: tgid,
        role,
        owner,
        family: 0,
    };
    if !track(tgid, &worker) {
        return false;
    }
    if role_before != 0 {
        untrack_descendant(tgid);
    }
    true
}

/// Who was above a worker becomes one, in its place.
#[inline(always)]
fn become_worker(tgid: u32, start_ns: u64) -> bool {
    let Some(known) = known(tgid, start_ns) else { return false };
    // SAFETY: a map value that the verifier knows the size of.
    let known = unsafe { &mut *known };
    known.role = Role::Worker as u32;
    known.worker = tgid;
    known.worker_start_ns = start_ns;
    known.start_ns = start_ns;
    true
}
