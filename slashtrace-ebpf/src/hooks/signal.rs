//! `signal_generate` (kernel/signal.c, `__send_signal_locked`): runs in the sender.

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_task_btf, programs::BtfTracePointContext};
use slashtrace_ebpf::{Field, RecordKind, SIGNALS_RECORDED, SignalRecord, TaskInfo};

use crate::{
    emit::{header, submit},
    maps::TRACKED,
    task::{self, Kernel},
};

/// `SI_KERNEL` (include/uapi/asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let signal: u32 = ctx.arg(0);
    if signal > 31 || SIGNALS_RECORDED & (1 << signal) == 0 {
        return;
    }
    let target = Kernel::new(ctx.arg::<*const c_void>(2));
    let tgid: u32 = target.read(Field::TaskTgid);
    // SAFETY: the value is copied field by field.
    let Some(known) = (unsafe { TRACKED.get(tgid) }) else {
        return;
    };
    let target_leader = target.follow(Field::TaskGroupLeader);
    if target_leader.is_null() {
        return;
    }
    // SEND_SIG_NOINFO is 0, SEND_SIG_PRIV is 1 (include/linux/sched/signal.h).
    let info: u64 = ctx.arg(1);
    let si_code = match info {
        0 => 0,
        1 => SI_KERNEL,
        pointer => Kernel::new(pointer as *const c_void).copy(Field::SiginfoCode, 0).unwrap_or(0),
    };
    let mut sender = TaskInfo::NONE;
    // SAFETY: a helper without arguments.
    let current = Kernel::new(unsafe { bpf_get_current_task_btf() }.cast());
    let leader = current.follow(Field::TaskGroupLeader);
    if !leader.is_null() {
        task::describe(leader, &mut sender);
    }
    submit(SignalRecord {
        header: header(RecordKind::Signal, size_of::<SignalRecord>()),
        start_ns: target_leader.read(Field::TaskStartBoottime),
        tgid,
        role: known.role,
        signal,
        si_code,
        result: ctx.arg(4),
        from_kernel: u32::from(info == 1 || si_code == SI_KERNEL),
        sender,
    });
}
