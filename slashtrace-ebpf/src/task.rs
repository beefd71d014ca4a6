//! Reads kernel structures through the typed pointers of BTF tracepoints.

use aya_ebpf::{cty::c_void, helpers::bpf_probe_read_kernel};
use slashtrace_ebpf::{Field, NO_TERMINAL, TaskInfo, TerminalKey};

use crate::maps::{PIDTYPE_SID, offset};

/// Major device number of Unix98 PTY slaves (Documentation/admin-guide/devices.txt).
const UNIX98_PTY_SLAVE_MAJOR: i32 = 136;

/// A pointer to a kernel structure that the verifier knows the type of, or null.
#[derive(Clone, Copy)]
pub struct Kernel(*const u8);

impl Kernel {
    /// Wraps an argument of a BTF tracepoint.
    #[inline(always)]
    pub fn new(pointer: *const c_void) -> Self {
        Self(pointer.cast())
    }

    /// Whether it points nowhere.
    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Reads a scalar field.
    #[inline(always)]
    pub fn read<T: Copy>(self, field: Field) -> T {
        // SAFETY: the verifier checks that the pointer is to a kernel structure and that the
        // access lies in it; a fault reads as zero (BPF_PROBE_MEM).
        unsafe { core::ptr::read_volatile(self.0.add(offset(field)).cast()) }
    }

    /// Follows a pointer field.
    #[inline(always)]
    pub fn follow(self, field: Field) -> Self {
        Self(self.read(field))
    }

    /// Copies the memory that it points to through the helper.
    #[inline(always)]
    pub fn bytes<T>(self) -> Option<T> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.0.cast()) }.ok()
    }

    /// Copies memory behind a field through the helper, for what is not a scalar.
    #[inline(always)]
    pub fn copy<T>(self, field: Field, extra: usize) -> Option<T> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.0.add(offset(field)).wrapping_add(extra).cast()) }.ok()
    }
}

/// Identity, owner, session and terminal of the thread group that `task` leads.
#[inline(always)]
pub fn describe(task: Kernel, out: &mut TaskInfo) {
    out.start_ns = task.read(Field::TaskStartBoottime);
    out.tgid = task.read(Field::TaskTgid);
    out.uid = 0;
    out.sid = 0;
    out.reserved = 0;
    out.terminal = TerminalKey { device: 0, index: NO_TERMINAL };
    out.comm = task.copy(Field::TaskComm, 0).unwrap_or_default();
    let cred = task.follow(Field::TaskRealCred);
    if !cred.is_null() {
        out.uid = cred.read(Field::CredUid);
    }
    let signal = task.follow(Field::TaskSignal);
    if signal.is_null() {
        return;
    }
    out.sid = session_of(signal);
    let tty = signal.follow(Field::SignalTty);
    if !tty.is_null() {
        let driver = tty.follow(Field::TtyDriver);
        if !driver.is_null() && driver.read::<i32>(Field::TtyDriverMajor) == UNIX98_PTY_SLAVE_MAJOR
        {
            out.terminal.index = tty.read(Field::TtyIndex);
            let dentry = tty.read::<*const c_void>(Field::TtyDriverData);
            out.terminal.device = device_of(Kernel::new(dentry)).unwrap_or(0);
        }
    }
}

/// Device number of the file system that a directory entry is on. `dentry` may be an address: every
/// read goes through the helper.
#[inline(always)]
pub fn device_of(dentry: Kernel) -> Option<u32> {
    let system = Kernel::new(dentry.copy::<*const c_void>(Field::DentrySb, 0)?);
    system.copy(Field::SuperBlockDev, 0)
}

/// `signal->pids[PIDTYPE_SID]->numbers[0].nr`, 0 if it cannot be read.
#[inline(always)]
fn session_of(signal: Kernel) -> u32 {
    let index = PIDTYPE_SID.load() as usize * size_of::<*const u8>();
    let Some(pid) = signal.copy::<*const c_void>(Field::SignalPids, index) else {
        return 0;
    };
    if pid.is_null() {
        return 0;
    }
    // An array of structures with a flexible length: read through the helper.
    Kernel::new(pid).copy(Field::PidNumbers, offset(Field::UpidNr)).unwrap_or(0)
}

/// Whether the thread group of `task` leads its session.
#[inline(always)]
pub fn leads_session(task: Kernel) -> bool {
    let signal = task.follow(Field::TaskSignal);
    !signal.is_null() && signal.read::<i32>(Field::SignalLeader) != 0
}
