//! `signal_generate` (kernel/signal.c, `__send_signal_locked`): runs in the sender.

use aya_ebpf::{EbpfContext as _, cty::c_void, programs::BtfTracePointContext};
use slashtrace_ebpf::{
    Counter, Field, RecordKind, SENT_AT_PARENT_END, SENT_BY_KERNEL, SENT_BY_TASK,
    SIGNAL_WINDOW_BITS, SIGNALS_EACH, SIGNALS_RECORDED, SignalBurst, SignalKey, SignalRecord,
    TaskInfo,
};

use crate::{
    emit::{count, header, submit_for},
    maps::SIGNALLED,
    shares::{add, current_user, may_record_signal},
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
    let header = header(RecordKind::Signal, size_of::<SignalRecord>());
    let uid = current_user();
    let one = Sent { role, si_code, result: ctx.arg(4), origin };
    if is_held(SignalKey { tgid, signal, uid, reserved: 0 }, start_ns, header.boottime_ns, &one) {
        count(Counter::SignalsHeld);
        return;
    }
    let Sent { result, .. } = one;
    let mut sender = TaskInfo::NONE;
    task::describe(Address::current().follow(Field::TaskGroupLeader), &mut sender);
    let record =
        SignalRecord { header, start_ns, tgid, role, signal, si_code, result, origin, sender };
    submit_for(uid, record);
}

/// Signals that end processes (signal(7)).
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// What differs from signal to signal of a sort.
struct Sent {
    role: u32,
    si_code: i32,
    result: u32,
    origin: u32,
}

/// Whether a signal is only counted: its sender had its records of this sort, or of all, for now.
#[inline(always)]
fn is_held(key: SignalKey, start_ns: u64, now_ns: u64, one: &Sent) -> bool {
    let window = now_ns >> SIGNAL_WINDOW_BITS;
    if SIGNALLED.get_ptr(key).is_none() {
        let new = SignalBurst {
            start_ns,
            window,
            first_ns: 0,
            last_ns: 0,
            emitted: 0,
            held: 0,
            role: one.role,
            si_code: 0,
            result: 0,
            origin: 0,
            sender: TaskInfo::NONE,
        };
        let _ = SIGNALLED.insert(key, new, 0);
    }
    let Some(burst) = SIGNALLED.get_ptr_mut(key) else { return false };
    // SAFETY: a map value that the verifier knows the size of. Where two CPUs are here at once, one
    // more may get a record.
    let burst = unsafe { &mut *burst };
    if burst.start_ns != start_ns {
        // The pid is another process's now.
        burst.start_ns = start_ns;
        burst.window = window;
        burst.emitted = 0;
        burst.held = 0;
        burst.role = one.role;
    }
    if burst.window != window {
        burst.window = window;
        burst.emitted = 0;
    }
    // Whoever ends a process has a record of that, however many other signals the user sends.
    let ends = (key.signal == SIGKILL || key.signal == SIGTERM) && burst.emitted == 0;
    if ends || (burst.emitted < SIGNALS_EACH && may_record_signal(key.uid, now_ns)) {
        burst.emitted += 1;
        return false;
    }
    if burst.held == 0 {
        burst.first_ns = now_ns;
        burst.si_code = one.si_code;
        burst.result = one.result;
        burst.origin = one.origin;
        task::describe(Address::current().follow(Field::TaskGroupLeader), &mut burst.sender);
    }
    burst.last_ns = now_ns;
    add(&raw mut burst.held, 1);
    true
}
