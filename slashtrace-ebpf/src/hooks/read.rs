//! Counts the reads of fd 0 that gave a worker data. Attached only when calls are to be counted.
//!
//! Three ways, of which the cheapest one that the kernel offers is taken: `pipe`, at the end of a
//! read from a pipe, costs only who reads from pipes. The others make every system call of the machine
//! take the slow path (`SYSCALL_WORK_SYSCALL_TRACEPOINT`): `read_call` runs for read(2) alone,
//! `system_call` for each.

use aya_ebpf::{
    cty::c_void,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_probe_read_kernel,
        generated::bpf_task_pt_regs,
    },
    programs::{BtfTracePointContext, FExitContext},
};
use slashtrace_ebpf::{Field, Role, Tracked};

use crate::{
    maps::{SYSCALL_READ, TRACKED, offset},
    task::Kernel,
};

/// `pipe_read` (fs/pipe.c) returned to the process that reads: its arguments, and behind them what it
/// returned.
#[inline(always)]
pub fn pipe(ctx: &FExitContext) {
    let returned: i64 = ctx.arg(2);
    if returned <= 0 {
        return;
    }
    let Some(worker) = current_worker() else { return };
    let iocb = Kernel::new(ctx.arg::<*const c_void>(0));
    if iocb.copy::<u64>(Field::KiocbFilp, 0).is_some_and(is_stdin) {
        count(worker);
    }
}

/// read(2) of the current process returned. Arguments and result are those that the process's saved
/// registers have (`task_pt_regs`).
#[inline(always)]
pub fn read_call() {
    let Some(worker) = current_worker() else { return };
    // SAFETY: helpers; the second one takes what the first one gives.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    let regs = Kernel::new(regs as *const c_void);
    let returned = regs.copy::<i64>(Field::RegsAx, 0).unwrap_or(0);
    if returned > 0 && regs.copy::<u64>(Field::RegsDi, 0).is_some_and(|fd| fd as u32 == 0) {
        count(worker);
    }
}

/// A system call of the current process ended.
#[inline(always)]
pub fn system_call(ctx: &BtfTracePointContext) {
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
    if let Some(worker) = current_worker() {
        count(worker);
    }
}

/// What is known of the current process, if it is a worker.
#[inline(always)]
fn current_worker() -> Option<*mut Tracked> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let known = TRACKED.get_ptr_mut(tgid)?;
    // SAFETY: a map value that the verifier knows the size of.
    (unsafe { (*known).role } == Role::Worker as u32).then_some(known)
}

/// Whether a file is what descriptor 0 of the current process stands for:
/// `current->files->fdt->fd[0]`. Another end of the same pipe is another file.
#[inline(always)]
fn is_stdin(file: u64) -> bool {
    // SAFETY: a helper without arguments.
    let current = Kernel::new(unsafe { bpf_get_current_task_btf() }.cast());
    let Some(files) = current.copy::<u64>(Field::TaskFiles, 0) else { return false };
    let Some(table) = at(files, Field::FilesFdt) else { return false };
    let Some(first) = at(table, Field::FdtableFd) else { return false };
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(first as *const u64) }.is_ok_and(|stdin| stdin == file)
}

/// The pointer in a field of the structure at an address.
#[inline(always)]
fn at(address: u64, field: Field) -> Option<u64> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((address + offset(field) as u64) as *const u64) }.ok()
}

#[inline(always)]
fn count(worker: *mut Tracked) {
    // SAFETY: a map value that the verifier knows the size of. Two threads that read fd 0 at once
    // could lose a count; a worker reads it from one thread.
    unsafe { (*worker).reads += 1 };
}
