//! Counts the reads of fd 0 that gave a worker data. Attached only when calls are to be counted.
//!
//! Three ways, of which the cheapest one that the kernel offers is taken: `pipe`, at the end of a
//! read from a pipe, costs only who reads from pipes. The others make every system call of the machine
//! take the slow path (`SYSCALL_WORK_SYSCALL_TRACEPOINT`): `read_call` runs for read(2) alone,
//! `system_call` for each.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, generated::bpf_task_pt_regs},
    programs::{BtfTracePointContext, FExitContext},
};
use slashtrace_ebpf::{Field, Role, Tracked};

use crate::{
    maps::SYSCALL_READ,
    task::{Address, Kernel},
    tracked::{is_marked, known},
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
    let iocb = Address(ctx.arg::<*const c_void>(0) as u64);
    if iocb.get::<u64>(Field::KiocbFilp).is_some_and(is_stdin) {
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
    let regs = Address(regs as u64);
    let returned: i64 = regs.read(Field::RegsAx);
    if returned > 0 && regs.get::<u64>(Field::RegsDi).is_some_and(|fd| fd as u32 == 0) {
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
    if !is_marked(tgid) {
        return None;
    }
    let leader = Address::current().follow(Field::TaskGroupLeader);
    let known = known(tgid, leader.read(Field::TaskStartBoottime))?;
    // SAFETY: a map value that the verifier knows the size of.
    (unsafe { (*known).role } == Role::Worker as u32).then_some(known)
}

/// Whether a file is what descriptor 0 of the current process stands for:
/// `current->files->fdt->fd[0]`. Another end of the same pipe is another file.
#[inline(always)]
fn is_stdin(file: u64) -> bool {
    let table = Address::current().follow(Field::TaskFiles).follow(Field::FilesFdt);
    table.follow(Field::FdtableFd).bytes::<u64>().is_some_and(|stdin| stdin == file)
}

#[inline(always)]
fn count(worker: *mut Tracked) {
    // SAFETY: a map value that the verifier knows the size of. Two threads that read fd 0 at once
    // could lose a count; a worker reads it from one thread.
    unsafe { (*worker).reads += 1 };
}
