//! Hooks without which it works, less well: each tries what the kernel offers, the best first, and
//! says which it is and why.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    programs::{FEntry, FExit, KProbe, ProgramError, TracePoint},
};

use super::object::{explain, hook_mut, load_hook};
use crate::sensor::TerminalChoice;

/// Name of the capability to tell of terminals.
pub const TERMINAL: &str = "terminal";
/// Name of the capability to count calls.
pub const COUNT_CALLS: &str = "count-calls";

/// The hook on the end of each system call.
const SYSCALL_HOOK: &str = "sys_exit";
/// The program on the end of read(2): a classic tracepoint.
const READ_PROGRAM: &str = "sys_exit_read";
/// The program at the end of a read from a pipe.
const PIPE_PROGRAM: &str = "pipe_read";
/// What it is attached to, the kernel's newer name first (fs/pipe.c: since 6.15 pipes without a name
/// have a function of their own).
const PIPE_FUNCTIONS: [&str; 2] = ["anon_pipe_read", "pipe_read"];

/// The function that ends a PTY, and the programs on it.
const TERMINAL_FUNCTION: &str = "devpts_pty_kill";
const TERMINAL_FENTRY: &str = "devpts_pty_kill";
const TERMINAL_KPROBE: &str = "devpts_pty_kill_probe";

/// What the end of a terminal is told by: the first of them that the kernel offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TerminalHook {
    /// fentry of `devpts_pty_kill`.
    Fentry,
    /// A kprobe on it.
    Kprobe {
        /// Why not the one before.
        why: String,
    },
    /// inotify alone, which does not tell who closed it.
    Inotify {
        /// Why not the ones before.
        why: String,
    },
}

impl TerminalHook {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Fentry => format!("fentry of {TERMINAL_FUNCTION}"),
            Self::Kprobe { why } => format!("kprobe on {TERMINAL_FUNCTION} (no fentry: {why})"),
            Self::Inotify { why } => format!("inotify alone ({why})"),
        }
    }
}

/// What calls are counted by: the cheapest of them that the kernel offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CallHook {
    /// fexit of this kernel function: costs only reads from pipes.
    Pipe(&'static str),
    /// The classic tracepoint at the end of read(2). Each system call takes the slow path for it.
    Read {
        /// Why not the one before.
        why: String,
    },
    /// The BTF tracepoint at the end of each system call.
    Syscall {
        /// Why not the ones before.
        why: String,
    },
}

impl CallHook {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Pipe(function) => format!("fexit of {function}"),
            Self::Read { why } => format!("tracepoint syscalls:{READ_PROGRAM} (no fexit: {why})"),
            Self::Syscall { why } => {
                format!("BTF tracepoint {SYSCALL_HOOK}, at each system call ({why})")
            }
        }
    }
}

/// Loads and attaches what counts calls: at the end of reads from pipes, or else of read(2), or else
/// of each system call.
pub fn attach_call_hook(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(CallHook, OwnedFd)> {
    let why = match attach_pipe_hook(ebpf, btf) {
        Ok((function, program)) => return Ok((CallHook::Pipe(function), program)),
        Err(error) => error.root_cause().to_string(),
    };
    let why = match attach_read_hook(ebpf) {
        Ok(program) => return Ok((CallHook::Read { why }, program)),
        Err(error) => format!("no fexit: {why}; no {READ_PROGRAM}: {}", error.root_cause()),
    };
    ensure_x86_64()?;
    load_hook(ebpf, SYSCALL_HOOK, btf)?;
    let program = hook_mut(ebpf, SYSCALL_HOOK)?;
    program.attach().with_context(|| format!("the kernel refused to attach {SYSCALL_HOOK}"))?;
    Ok((CallHook::Syscall { why }, program.fd()?.as_fd().try_clone_to_owned()?))
}

/// Needs tracefs, where the tracepoint's number is.
fn attach_read_hook(ebpf: &mut Ebpf) -> Result<OwnedFd> {
    ensure_x86_64()?;
    let program = ebpf.program_mut(READ_PROGRAM).context("the object has no sys_exit_read")?;
    let program: &mut TracePoint = program.try_into()?;
    program.load().map_err(|error| explain(READ_PROGRAM, error))?;
    program.attach("syscalls", READ_PROGRAM)?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// Whose registers the programs read.
fn ensure_x86_64() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "calls can be counted by system calls on x86-64 only");
    Ok(())
}

fn attach_pipe_hook(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(&'static str, OwnedFd)> {
    let program = ebpf.program_mut(PIPE_PROGRAM).context("the object has no pipe_read")?;
    let program: &mut FExit = program.try_into()?;
    for function in PIPE_FUNCTIONS {
        match program.load(function, btf) {
            Ok(()) => {
                program
                    .attach()
                    .with_context(|| format!("the kernel refused fexit of {function}"))?;
                return Ok((function, program.fd()?.as_fd().try_clone_to_owned()?));
            }
            // This kernel has no function of that name.
            Err(ProgramError::Btf(_)) => {}
            Err(error) => return Err(explain(function, error)),
        }
    }
    bail!("this kernel has no {}", PIPE_FUNCTIONS.join(" and no "))
}

/// Loads and attaches what tells the end of a terminal. With a choice other than `Auto` that one or
/// none.
pub fn attach_terminal_hook(
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    choice: TerminalChoice,
) -> Result<(TerminalHook, Option<OwnedFd>)> {
    let mut why = Vec::new();
    if matches!(choice, TerminalChoice::Auto | TerminalChoice::Fentry) {
        match attach_terminal_fentry(ebpf, btf) {
            Ok(program) => return Ok((TerminalHook::Fentry, Some(program))),
            Err(error) if choice == TerminalChoice::Fentry => return Err(error),
            Err(error) => why.push(error.root_cause().to_string()),
        }
    }
    if matches!(choice, TerminalChoice::Auto | TerminalChoice::Kprobe) {
        match attach_terminal_kprobe(ebpf) {
            Ok(program) => {
                let why = why.pop().unwrap_or_else(|| "not wanted".to_owned());
                return Ok((TerminalHook::Kprobe { why }, Some(program)));
            }
            Err(error) if choice == TerminalChoice::Kprobe => return Err(error),
            Err(error) => why.push(error.root_cause().to_string()),
        }
    }
    let why = match why.as_slice() {
        [fentry, kprobe] => format!("no fentry: {fentry}; no kprobe: {kprobe}"),
        _ => "nothing else is wanted".to_owned(),
    };
    Ok((TerminalHook::Inotify { why }, None))
}

fn attach_terminal_fentry(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<OwnedFd> {
    let program = ebpf.program_mut(TERMINAL_FENTRY).context("the object has no such fentry")?;
    let program: &mut FEntry = program.try_into()?;
    program.load(TERMINAL_FUNCTION, btf).map_err(|error| explain(TERMINAL_FENTRY, error))?;
    program.attach()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn attach_terminal_kprobe(ebpf: &mut Ebpf) -> Result<OwnedFd> {
    let program = ebpf.program_mut(TERMINAL_KPROBE).context("the object has no such kprobe")?;
    let program: &mut KProbe = program.try_into()?;
    program.load().map_err(|error| explain(TERMINAL_KPROBE, error))?;
    program.attach(TERMINAL_FUNCTION, 0)?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}
