//! Reads kernel structures: through the typed pointers of BTF tracepoints where that is done for
//! everything on the machine, else by address through a helper.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task},
};
use slashtrace_ebpf::{Field, NO_TERMINAL, TaskInfo, TerminalKey};

use crate::maps::{PIDTYPE_SID, offset};

/// Major device number of Unix98 PTY slaves (Documentation/admin-guide/devices.txt).
const UNIX98_PTY_SLAVE_MAJOR: i32 = 136;

/// A pointer to a kernel structure that the verifier knows the type of, or null. Its fields are read
/// without a helper call, so it is for what runs at every event of the machine. It is dear at load
/// time: for pointers that are followed, the verifier looks types up in the kernel's whole BTF by name
/// (`btf_find_by_name_kind` below `check_ptr_to_btf_access`, kernel/bpf/verifier.c: four fifths of
/// the samples of a start, before most of these reads were moved). What runs only for what is
/// tracked uses [`Address`].
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

    /// The same structure, to be read through the helper.
    #[inline(always)]
    pub fn address(self) -> Address {
        Address(self.0 as u64)
    }
}

/// An address in the kernel, of any origin, 0 for none. Every read goes through the helper, which
/// fails instead of faulting. The verifier knows nothing of it and so has nothing to look up.
#[derive(Clone, Copy)]
pub struct Address(pub u64);

impl Address {
    /// The current task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: a helper without arguments.
        Self(unsafe { bpf_get_current_task() })
    }

    /// Whether it points nowhere.
    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Reads a field; `None` where the address cannot be read.
    #[inline(always)]
    pub fn get<T>(self, field: Field) -> Option<T> {
        self.get_at(field, 0)
    }

    /// Reads what is `extra` bytes behind the start of a field.
    #[inline(always)]
    pub fn get_at<T>(self, field: Field, extra: usize) -> Option<T> {
        Self(self.0.wrapping_add((offset(field) + extra) as u64)).bytes()
    }

    /// Reads a field; zero where the address cannot be read.
    #[inline(always)]
    pub fn read<T: Default>(self, field: Field) -> T {
        self.get(field).unwrap_or_default()
    }

    /// Follows a pointer field.
    #[inline(always)]
    pub fn follow(self, field: Field) -> Self {
        Self(self.read(field))
    }

    /// Copies the memory that it points to.
    #[inline(always)]
    pub fn bytes<T>(self) -> Option<T> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.0 as *const T) }.ok()
    }
}

/// Identity, owner, session and terminal of the thread group that `task` leads.
#[inline(always)]
pub fn describe(task: Address, out: &mut TaskInfo) {
    out.start_ns = task.read(Field::TaskStartBoottime);
    out.tgid = task.read(Field::TaskTgid);
    out.uid = task.follow(Field::TaskRealCred).read(Field::CredUid);
    out.reserved = 0;
    out.terminal = TerminalKey { device: 0, index: NO_TERMINAL };
    out.comm = task.read(Field::TaskComm);
    let signal = task.follow(Field::TaskSignal);
    out.sid = session_of(signal);
    let tty = signal.follow(Field::SignalTty);
    if tty.is_null() {
        return;
    }
    if tty.follow(Field::TtyDriver).read::<i32>(Field::TtyDriverMajor) == UNIX98_PTY_SLAVE_MAJOR {
        out.terminal.index = tty.read(Field::TtyIndex);
        out.terminal.device = device_of(tty.follow(Field::TtyDriverData)).unwrap_or(0);
    }
}

/// Device number of the file system that a directory entry is on.
#[inline(always)]
pub fn device_of(dentry: Address) -> Option<u32> {
    dentry.follow(Field::DentrySb).get(Field::SuperBlockDev)
}

/// `signal->pids[PIDTYPE_SID]->numbers[0].nr`, 0 if it cannot be read.
#[inline(always)]
fn session_of(signal: Address) -> u32 {
    let index = PIDTYPE_SID.load() as usize * size_of::<*const u8>();
    let pid = Address(signal.get_at(Field::SignalPids, index).unwrap_or(0));
    pid.get_at(Field::PidNumbers, offset(Field::UpidNr)).unwrap_or(0)
}

/// Whether the thread group of `task` leads its session.
#[inline(always)]
pub fn leads_session(task: Address) -> bool {
    task.follow(Field::TaskSignal).read::<i32>(Field::SignalLeader) != 0
}

/// Whether each thread of the group of `task` is in `do_exit`, past the point at which
/// `signal->live` is counted down: its exit program has run or is about to. The structure is not
/// freed while a program that found it runs (RCU).
#[inline(always)]
pub fn is_ending(task: Address) -> bool {
    task.follow(Field::TaskSignal).get::<i32>(Field::SignalLive) == Some(0)
}

/// `SIGNAL_GROUP_EXIT` (include/linux/sched/signal.h).
const SIGNAL_GROUP_EXIT: u32 = 4;

/// What wait(2) would say of the thread group that `leader` leads: the group's status if there was
/// a group exit, else the leader's.
#[inline(always)]
pub fn wait_status(leader: Address) -> u32 {
    let signal = leader.follow(Field::TaskSignal);
    if signal.read::<u32>(Field::SignalFlags) & SIGNAL_GROUP_EXIT != 0 {
        signal.read(Field::SignalGroupExitCode)
    } else {
        leader.read(Field::TaskExitCode)
    }
}
