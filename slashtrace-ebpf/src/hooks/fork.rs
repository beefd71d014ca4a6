//! `sched_process_fork` (kernel/fork.c, `kernel_clone`): runs in the forking thread, after the
//! child is complete and before it runs. Threads are clones too; `flat` looks at those of gateways.

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_pid_tgid, programs::BtfTracePointContext};
use aya_log_ebpf::info;
use slashtrace_ebpf::{
    FORK_SLOTS, FORKED_AS_SIBLING, Field, ForkRecord, RecordKind, Role, TaskInfo, Tracked,
};

use super::flat;
use crate::{
    emit::{header, submit_for},
    maps::{FORKS, LOG},
    task::{self, Kernel},
    tracked::{known, track_child},
};

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let forker = Kernel::new(ctx.arg::<*const c_void>(0));
    let child = Kernel::new(ctx.arg::<*const c_void>(1));
    let tgid: u32 = child.read(Field::TaskTgid);
    if tgid != child.read::<u32>(Field::TaskPid) {
        flat::cloned(forker, child, tgid);
        return;
    }
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let leader = forker.follow(Field::TaskGroupLeader);
    if leader.is_null() {
        return;
    }
    let parent_start_ns: u64 = leader.read(Field::TaskStartBoottime);
    let child_start_ns: u64 = child.read(Field::TaskStartBoottime);
    // With CLONE_PARENT the child's parent is its forker's parent (`copy_process`).
    let is_sibling =
        child.read::<*const c_void>(Field::TaskRealParent) != ctx.arg::<*const c_void>(0);
    if let Some(slot) = FORKS.get_ptr_mut(tgid & (FORK_SLOTS - 1)) {
        // SAFETY: a value of an array map. Another CPU may write the same slot for another child;
        // the reader compares child and start time.
        unsafe {
            (*slot).child = tgid;
            (*slot).parent = if is_sibling { parent | FORKED_AS_SIBLING } else { parent };
            (*slot).child_start_ns = child_start_ns;
            (*slot).parent_start_ns = parent_start_ns;
        }
    }
    flat::forked(forker, parent, tgid, child_start_ns);
    // The pid is a new process's: what an earlier one may have left under it is removed here.
    known(tgid, child_start_ns);
    let Some(known) = known(parent, parent_start_ns) else {
        return;
    };
    // SAFETY: a map value that the verifier knows the size of; a concurrent delete leaves old bytes
    // at worst.
    let known = unsafe { *known };
    if known.role != Role::Worker as u32 && known.role != Role::Descendant as u32 {
        return;
    }
    let mut tracked = Tracked {
        start_ns: child_start_ns,
        worker_start_ns: known.worker_start_ns,
        reads: 0,
        worker: known.worker,
        role: Role::Descendant as u32,
        owner: known.owner,
        family: 0,
    };
    // Of whom nothing is kept nothing is said: nobody would be told of its end.
    if !track_child(tgid, &mut tracked) {
        return;
    }
    if LOG.load() != 0 {
        info!(ctx, "fork: {} below worker {}", tgid, tracked.worker);
    }
    let mut described = TaskInfo::NONE;
    task::describe(child.address(), &mut described);
    submit_for(
        tracked.owner,
        ForkRecord {
            header: header(RecordKind::Fork, size_of::<ForkRecord>()),
            child: described,
            parent_start_ns,
            worker_start_ns: tracked.worker_start_ns,
            parent,
            worker: tracked.worker,
        },
    );
}
