//! `signal_generate` (kernel/signal.c, `__send_signal_locked`): runs in the sender.

use aya_ebpf::{cty::c_void, programs::BtfTracePointContext};
use slashtrace_ebpf::{Field, RecordKind, SIGNALS_RECORDED, SignalRecord, TaskInfo};

use crate::{
    emit::{header, submit},
    task::{self, Address, Kernel},
    tracked::{is_marked, known},
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
    if !is_marked(tgid) {
        return;
    }
    let start_ns: u64 =
        target.address().follow(Field::TaskGroupLeader).read(Field::TaskStartBoottime);
    let Some(known) = known(tgid, start_ns) else {
        return;
    };
    // SAFETY: a map value that the verifier knows the size of.
    let role = unsafe { (*known).role };
    // SEND_SIG_NOINFO is 0, SEND_SIG_PRIV is 1 (include/linux/sched/signal.h).
    let info: u64 = ctx.arg(1);
    let si_code = match info {
        0 => 0,
        1 => SI_KERNEL,
        pointer => Address(pointer).read(Field::SiginfoCode),
    };
    let mut sender = TaskInfo::NONE;
    task::describe(Address::current().follow(Field::TaskGroupLeader), &mut sender);
    submit(SignalRecord {
        header: header(RecordKind::Signal, size_of::<SignalRecord>()),
        start_ns,
        tgid,
        role,
        signal,
        si_code,
        result: ctx.arg(4),
        from_kernel: u32::from(info == 1 || si_code == SI_KERNEL),
        sender,
    });
}
