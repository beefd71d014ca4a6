//! `sched_process_exec` (fs/exec.c, `exec_binprm`): the new program's address space and argument
//! area are in place, and a thread that executed has become the leader of its group.

use aya_ebpf::{cty::c_void, programs::BtfTracePointContext};
use aya_log_ebpf::info;
use slashtrace_ebpf::{
    ARGV_MAX, CHAIN_MAX, Counter, ExecRecord, FORK_SLOTS, Field, ParentKnownBy, RecordKind, Role,
    TaskInfo, Tracked,
};

use crate::{
    emit::{count, header, submit_bytes, track, track_above},
    filter,
    maps::{ARGV_MIN, EXEC_SCRATCH, FORKS, LOG, TRACKED},
    task::{self, Kernel},
};

/// Bytes of a record before its argv.
const FIXED: usize = size_of::<ExecRecord>() - ARGV_MAX;

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

    // SAFETY: the value is copied field by field.
    let role_before = match unsafe { TRACKED.get(tgid) } {
        Some(known) => known.role,
        None => 0,
    };
    if role_before == 0 && argv_bytes < ARGV_MIN.load() {
        return;
    }
    let Some(record) = EXEC_SCRATCH.get_ptr_mut(0) else {
        count(Counter::NoScratch);
        return;
    };
    // SAFETY: this CPU's own value, and this program does not nest on a CPU.
    let record = unsafe { &mut *record };
    if !filter::read_argv(record, arg_start, argv_bytes) {
        count(Counter::ArgvUnreadable);
        return;
    }
    let matched = filter::may_match(record) && filter::matches(record);
    record.matched = u8::from(matched);
    if !matched {
        if argv_bytes > ARGV_MAX as u64 {
            count(Counter::ArgvNotSearched);
        }
        if role_before == 0 {
            return;
        }
    }

    record.role_before = role_before;
    record.parent_known_by = 0;
    record.reparented = 0;
    record.reserved = 0;
    record.argv_bytes = argv_bytes;
    record.chain_len = 0;
    record.forker = TaskInfo::NONE;
    task::describe(task, &mut record.task);
    if matched {
        count(Counter::Matched);
        if argv_bytes > ARGV_MAX as u64 {
            count(Counter::ArgvTruncated);
        }
        follow_parents(task, record);
        track_worker(tgid, record.task.start_ns, role_before);
    }
    if LOG.load() != 0 {
        info!(
            ctx,
            "exec: {} matched {}, forked by {}",
            tgid,
            u32::from(matched),
            record.forker.tgid
        );
    }
    let argv_len = filter::length(record).min(ARGV_MAX);
    record.header = header(RecordKind::Exec, FIXED + argv_len);
    // SAFETY: at most the size of the record.
    submit_bytes(unsafe {
        core::slice::from_raw_parts(core::ptr::from_ref(record).cast(), FIXED + argv_len)
    });
}

/// Finds out who forked the worker, and tracks it and what is above it from this moment on, so
/// that the end of a gateway is seen even if it comes right behind.
#[inline(always)]
fn follow_parents(task: Kernel, record: &mut ExecRecord) {
    let parent = task.follow(Field::TaskRealParent);
    if parent.is_null() {
        return;
    }
    let mut current = parent.follow(Field::TaskGroupLeader);
    for i in 0..CHAIN_MAX {
        if current.is_null() {
            break;
        }
        let info = &mut record.chain[i];
        task::describe(current, info);
        record.chain_len = i as u32 + 1;
        let leads = task::leads_session(current);
        if i > 0 && info.tgid > 1 {
            track_above(info.tgid, info.start_ns, Role::Ancestor);
        }
        if leads || info.tgid <= 1 {
            break;
        }
        let above = current.follow(Field::TaskRealParent);
        if above.is_null() {
            break;
        }
        current = above.follow(Field::TaskGroupLeader);
    }

    let real_parent = record.chain[0];
    record.forker = real_parent;
    record.parent_known_by = ParentKnownBy::RealParent as u8;
    match FORKS.get(record.task.tgid & (FORK_SLOTS - 1)) {
        Some(slot)
            if slot.child == record.task.tgid && slot.child_start_ns == record.task.start_ns =>
        {
            record.parent_known_by = ParentKnownBy::Fork as u8;
            if slot.parent != real_parent.tgid || slot.parent_start_ns != real_parent.start_ns {
                record.reparented = 1;
                record.forker = TaskInfo::NONE;
                record.forker.tgid = slot.parent;
                record.forker.start_ns = slot.parent_start_ns;
            }
        }
        _ => count(Counter::ForkerForgotten),
    }
    track_above(record.forker.tgid, record.forker.start_ns, Role::Gateway);
}

#[inline(always)]
fn track_worker(tgid: u32, start_ns: u64, role_before: u32) {
    if role_before == Role::Worker as u32 {
        return;
    }
    track(
        tgid,
        &Tracked {
            start_ns,
            worker_start_ns: start_ns,
            reads: 0,
            worker: tgid,
            role: Role::Worker as u32,
        },
    );
}
