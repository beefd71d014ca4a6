//! `sys_exit`: counts the reads of fd 0 that gave a worker data. Attached only when calls are to
//! be counted, because any program on it makes every system call of the machine take the slow
//! path (`SYSCALL_WORK_SYSCALL_TRACEPOINT`).

use aya_ebpf::{cty::c_void, helpers::bpf_get_current_pid_tgid, programs::BtfTracePointContext};
use slashtrace_ebpf::{Field, Role};

use crate::{
    maps::{SYSCALL_READ, TRACKED},
    task::Kernel,
};

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let returned: i64 = ctx.arg(1);
    if returned <= 0 {
        return;
    }
    let regs = Kernel::new(ctx.arg::<*const c_void>(0));
    if regs.read::<u64>(Field::RegsOrigAx) != SYSCALL_READ.load()
        || regs.read::<u64>(Field::RegsDi) as u32 != 0
    {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if let Some(known) = TRACKED.get_ptr_mut(tgid) {
        // SAFETY: a map value that the verifier knows the size of. Two threads that read fd 0 at
        // once could lose a count; a worker reads it from one thread.
        unsafe {
            if (*known).role == Role::Worker as u32 {
                (*known).reads += 1;
            }
        }
    }
}
