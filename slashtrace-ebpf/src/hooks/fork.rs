//! `sched_process_fork` (kernel/fork.c, `kernel_clone`): runs in the forking thread, after the
//! child is complete and before it runs. Threads are clones too, and are left out.

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_pid_tgid, programs::BtfTracePointContext};
use aya_log_ebpf::info;
use slashtrace_ebpf::{
    FORK_SLOTS, Field, ForkRecord, RecordKind, Role, TaskInfo, Tracked, is_same_start,
};

use crate::{
    emit::{header, submit, track},
    maps::{FORKS, LOG, TRACKED},
    task::{self, Kernel},
};

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let forker = Kernel::new(ctx.arg::<*const c_void>(0));
    let child = Kernel::new(ctx.arg::<*const c_void>(1));
    let tgid: u32 = child.read(Field::TaskTgid);
    if tgid != child.read::<u32>(Field::TaskPid) {
        return;
    }
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let leader = forker.follow(Field::TaskGroupLeader);
    if leader.is_null() {
        return;
    }
    let parent_start_ns: u64 = leader.read(Field::TaskStartBoottime);
    let child_start_ns: u64 = child.read(Field::TaskStartBoottime);
    if let Some(slot) = FORKS.get_ptr_mut(tgid & (FORK_SLOTS - 1)) {
        // SAFETY: a value of an array map. Another CPU may write the same slot for another child;
        // the reader compares child and start time.
        unsafe {
            (*slot).child = tgid;
            (*slot).parent = parent;
            (*slot).child_start_ns = child_start_ns;
            (*slot).parent_start_ns = parent_start_ns;
        }
    }
    // SAFETY: the value is copied field by field; a concurrent delete leaves old bytes at worst.
    let Some(known) = (unsafe { TRACKED.get(parent) }) else {
        return;
    };
    let role = known.role;
    if !is_same_start(known.start_ns, parent_start_ns)
        || (role != Role::Worker as u32 && role != Role::Descendant as u32)
    {
        return;
    }
    let tracked = Tracked {
        start_ns: child_start_ns,
        worker_start_ns: known.worker_start_ns,
        reads: 0,
        worker: known.worker,
        role: Role::Descendant as u32,
    };
    track(tgid, &tracked);
    if LOG.load() != 0 {
        info!(ctx, "fork: {} below worker {}", tgid, tracked.worker);
    }
    let mut described = TaskInfo::NONE;
    task::describe(child, &mut described);
    submit(ForkRecord {
        header: header(RecordKind::Fork, size_of::<ForkRecord>()),
        child: described,
        parent_start_ns,
        worker_start_ns: tracked.worker_start_ns,
        parent,
        worker: tracked.worker,
    });
}
