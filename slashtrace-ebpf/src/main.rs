//! The kernel programs of slashtrace: maps, and one thin entry point a hook.
//!
//! Rooms: `hooks/` has one file a hook, `task.rs` reads kernel structures, `filter.rs` decides
//! whether an argv is a worker's, `tracked.rs` keeps the tables of tracked processes, `shares.rs` what
//! one user may take of what all share, `emit.rs` writes records and counts what could not be written.
//!
//! The programs are BTF tracepoints (`tp_btf`): their arguments are typed pointers, which the
//! verifier lets be read directly, without a helper call, at offsets that it sees as constants
//! because the global `OFFSETS` is frozen before they are loaded.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod shares;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod tracked;

#[cfg(target_arch = "bpf")]
#[expect(clippy::needless_pass_by_value, reason = "the signature that the macro asks for")]
mod programs {
    use aya_ebpf::{
        cty::c_void,
        macros::{btf_tracepoint, fentry, fexit, kprobe, tracepoint},
        programs::{
            BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, TracePointContext,
        },
    };

    use crate::hooks;

    /// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`
    #[btf_tracepoint(function = "sched_process_fork")]
    pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
        hooks::fork::handle(&ctx);
        0
    }

    /// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
    #[btf_tracepoint(function = "sched_process_exec")]
    pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
        hooks::exec::handle(&ctx);
        0
    }

    /// `TP_PROTO(struct task_struct *p)`, since 6.16 `(struct task_struct *p, bool group_dead)`
    #[btf_tracepoint(function = "sched_process_exit")]
    pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
        hooks::exit::handle(&ctx);
        0
    }

    /// `TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
    /// int result)`
    #[btf_tracepoint(function = "signal_generate")]
    pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
        hooks::signal::handle(&ctx);
        0
    }

    /// `TP_PROTO(struct sock *sk, int ret, int flags)`, since 6.3; attached only while there is a
    /// gateway that serves several terminals.
    #[btf_tracepoint(function = "sock_send_length")]
    pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
        hooks::send::handle(&ctx);
        0
    }

    /// `void devpts_pty_kill(struct dentry *dentry)` (fs/devpts/inode.c)
    #[fentry]
    pub fn devpts_pty_kill(ctx: FEntryContext) -> i32 {
        hooks::terminal::closed(ctx.arg::<*const c_void>(0));
        0
    }

    /// The same where the kernel has no trampolines for functions.
    #[kprobe]
    pub fn devpts_pty_kill_probe(ctx: ProbeContext) -> u32 {
        if let Some(dentry) = ctx.arg::<*const c_void>(0) {
            hooks::terminal::closed(dentry);
        }
        0
    }

    /// `ssize_t pipe_read(struct kiocb *iocb, struct iov_iter *to)` (fs/pipe.c; for pipes without a
    /// name it is called `anon_pipe_read` since 6.15); attached only to count calls.
    #[fexit]
    pub fn pipe_read(ctx: FExitContext) -> i32 {
        hooks::read::pipe(&ctx);
        0
    }

    /// The classic tracepoint `syscalls:sys_exit_read` (`perf_syscall_exit`,
    /// kernel/trace/trace_syscalls.c); attached only to count calls where `pipe_read` cannot be. Its
    /// record is not read, so no offset in it matters.
    #[tracepoint]
    pub fn sys_exit_read(_ctx: TracePointContext) -> u32 {
        hooks::read::read_call();
        0
    }

    /// `TP_PROTO(struct pt_regs *regs, long ret)`; attached only to count calls where neither of the
    /// two above can be.
    #[btf_tracepoint(function = "sys_exit")]
    pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
        hooks::read::system_call(&ctx);
        0
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: the verifier refuses a program that can get here.
    unsafe { core::hint::unreachable_unchecked() }
}

/// Licence of the object: the helpers that read memory are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("these are kernel programs; `slashtrace` loads them");
}
