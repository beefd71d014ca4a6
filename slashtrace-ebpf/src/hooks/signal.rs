//! `signal_generate` (kernel/signal.c, `__send_signal_locked`): runs in the sender.

use aya_ebpf::{EbpfContext as _, cty::c_void, programs::BtfTracePointContext};
use slashtrace_ebpf::{
    Field, RecordKind, SENT_AT_PARENT_END, SENT_BY_KERNEL, SENT_BY_TASK, SIGNALS_RECORDED,
    SignalRecord, TaskInfo,
};

use crate::{
    emit::{header, submit},
    task::{self, Address, Kernel},
    tracked::{is_marked, known},
};

/// `SI_KERNEL` (include/uapi/asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;
/// In place of a siginfo (include/linux/sched/signal.h).
const SEND_SIG_NOINFO: u64 = 0;
const SEND_SIG_PRIV: u64 = 1;
/// Where the second argument is.
const INFO_AT: u64 = 8;

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
    // The verifier takes the argument for a pointer that is never null, and would drop the branch of
    // 0: a copy by the helper is a number.
    let info: u64 = Address(ctx.as_ptr() as u64 + INFO_AT).bytes().unwrap_or(SEND_SIG_PRIV);
    let si_code = match info {
        SEND_SIG_NOINFO => 0,
        SEND_SIG_PRIV => SI_KERNEL,
        pointer => Address(pointer).read(Field::SiginfoCode),
    };
    // kill(2) and its like hand over a siginfo. A task that ends lets go of its memory (`exit_mm`)
    // before its children get the signal that they asked for (`forget_original_parent`,
    // kernel/exit.c): without a siginfo, from the thread that is their parent.
    let origin = if si_code == SI_KERNEL {
        SENT_BY_KERNEL
    } else if info == SEND_SIG_NOINFO && Address::current().read::<u64>(Field::TaskMm) == 0 {
        SENT_AT_PARENT_END
    } else {
        SENT_BY_TASK
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
        origin,
        sender,
    });
}
