//! `sched_process_exit` (kernel/exit.c, `do_exit`): once per thread, after `signal->live` was
//! decremented and `exit_code` set, before files are closed.

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_pid_tgid, programs::BtfTracePointContext};
use aya_log_ebpf::info;
use slashtrace_ebpf::Field;

use super::flat;
use crate::{
    emit::submit_exit,
    maps::LOG,
    task::{self, Kernel},
    tracked::{is_marked, known, untrack},
};

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    flat::exited(tgid);
    if !is_marked(tgid) {
        return;
    }
    let task = Kernel::new(ctx.arg::<*const c_void>(0)).address();
    let leader = task.follow(Field::TaskGroupLeader);
    let Some(known) = known(tgid, leader.read(Field::TaskStartBoottime)) else {
        return;
    };
    // SAFETY: a map value that the verifier knows the size of; copied before it is removed.
    let tracked = unsafe { *known };
    // Two threads that end together both see zero; the one that removes the entry reports.
    if !task::is_ending(task) || !untrack(tgid) {
        return;
    }
    if LOG.load() != 0 {
        info!(ctx, "exit: {} role {}", tgid, tracked.role);
    }
    submit_exit(leader, tgid, &tracked);
}
