//! `sched_process_exit` (kernel/exit.c, `do_exit`): once per thread, after `signal->live` was
//! decremented and `exit_code` set, before files are closed.

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_pid_tgid, programs::BtfTracePointContext};
use aya_log_ebpf::info;
use slashtrace_ebpf::{ExitRecord, Field, RecordKind};

use crate::{
    emit::{header, submit},
    maps::{LOG, TRACKED},
    task::Kernel,
};

/// `SIGNAL_GROUP_EXIT` (include/linux/sched/signal.h).
const SIGNAL_GROUP_EXIT: u32 = 4;

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied before it is removed.
    let Some(known) = (unsafe { TRACKED.get(tgid) }) else {
        return;
    };
    let tracked = *known;
    let task = Kernel::new(ctx.arg::<*const c_void>(0));
    let signal = task.follow(Field::TaskSignal);
    if signal.is_null() || signal.read::<i32>(Field::SignalLive) != 0 {
        return;
    }
    // Two threads that end together both see zero; the one that removes the entry tells.
    if TRACKED.remove(tgid).is_err() {
        return;
    }
    let leader = task.follow(Field::TaskGroupLeader);
    if leader.is_null() {
        return;
    }
    // What wait(2) would say: the group's status if there was a group exit, else the leader's. Both
    // are read first: a choice between two places to read from is one that the verifier of 6.1
    // cannot follow.
    let of_group: u32 = signal.read(Field::SignalGroupExitCode);
    let of_leader: u32 = leader.read(Field::TaskExitCode);
    let group_exit = signal.read::<u32>(Field::SignalFlags) & SIGNAL_GROUP_EXIT != 0;
    let status = if group_exit { of_group } else { of_leader };
    if LOG.load() != 0 {
        info!(ctx, "exit: {} role {} status {}", tgid, tracked.role, status);
    }
    submit(ExitRecord {
        header: header(RecordKind::Exit, size_of::<ExitRecord>()),
        // Not the map's: userspace may have put it there, rounded to a clock tick.
        start_ns: leader.read(Field::TaskStartBoottime),
        reads: tracked.reads,
        tgid,
        role: tracked.role,
        status,
        reserved: 0,
    });
}
