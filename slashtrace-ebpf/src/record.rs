#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the record layouts.
pub const WIRE_VERSION: u8 = 6;

/// Bytes of the argument area that are searched and carried.
pub const ARGV_MAX: usize = 1024;

/// Most processes above a worker that a record carries: its parent, and up to its session leader.
pub const CHAIN_MAX: usize = 8;

/// [`TerminalKey::index`] of a process without a PTY as controlling terminal.
pub const NO_TERMINAL: u32 = u32::MAX;

/// Which record follows a [`Header`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum RecordKind {
    /// [`ExecRecord`].
    Exec = 1,
    /// [`ForkRecord`].
    Fork = 2,
    /// [`ExitRecord`].
    Exit = 3,
    /// [`SignalRecord`].
    Signal = 4,
    /// [`TerminalRecord`].
    Terminal = 5,
    /// [`LongArgvRecord`].
    LongArgv = 6,
    /// [`crate::ThreadForkRecord`].
    ThreadFork = 7,
    /// [`crate::ThreadActRecord`].
    ThreadAct = 8,
}

impl RecordKind {
    /// The kind with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Exec,
            2 => Self::Fork,
            3 => Self::Exit,
            4 => Self::Signal,
            5 => Self::Terminal,
            6 => Self::LongArgv,
            7 => Self::ThreadFork,
            8 => Self::ThreadAct,
            _ => return None,
        })
    }
}

/// How the kernel programs know a worker's parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum ParentKnownBy {
    /// It was seen forking (fork cache).
    Fork = 1,
    /// `real_parent` at the exec.
    RealParent = 2,
}

impl ParentKnownBy {
    /// The source with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Fork,
            2 => Self::RealParent,
            _ => return None,
        })
    }
}

/// Start of every record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Header {
    /// [`WIRE_VERSION`].
    pub version: u8,
    /// A [`RecordKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: u16,
    /// Bytes of the whole record, this header included.
    pub size: u32,
    /// `bpf_ktime_get_boot_ns` when it happened.
    pub boottime_ns: u64,
}

/// A thread group as the kernel knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct TaskInfo {
    /// Start of the leader in the boot clock, ns.
    pub start_ns: u64,
    /// Thread group id in the initial pid namespace; 0 where there is no such process.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Session id in the initial pid namespace; 0 if unknown.
    pub sid: u32,
    /// Zero.
    pub reserved: u32,
    /// The PTY that is its controlling terminal; the index is [`NO_TERMINAL`] where it has none,
    /// and the device 0 where that could not be read.
    pub terminal: TerminalKey,
    /// `comm` of the leader, NUL-padded.
    pub comm: [u8; 16],
}

impl TaskInfo {
    /// No process.
    pub const NONE: Self = Self {
        start_ns: 0,
        tgid: 0,
        uid: 0,
        sid: 0,
        reserved: 0,
        terminal: TerminalKey { device: 0, index: NO_TERMINAL },
        comm: [0; 16],
    };
}

/// A worker executed (`matched`), or a tracked process executed something else. Only what is there
/// is sent: `argv_len` bytes of argv follow, padded to [`argv_padded`] with whatever was there, then
/// `chain_len` [`TaskInfo`]s: `real_parent` and what is above it, up to its session leader.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ExecRecord {
    /// Header; its size counts what follows, too.
    pub header: Header,
    /// The process, after the exec.
    pub task: TaskInfo,
    /// Its role before this exec, 0 if it was not tracked.
    pub role_before: u32,
    /// Whether its argv matched a worker rule.
    pub matched: u8,
    /// A [`ParentKnownBy`]; 0 if not matched.
    pub parent_known_by: u8,
    /// Whether `real_parent` is another than the forker: the forker ended, or the child was
    /// cloned with `CLONE_PARENT`.
    pub reparented: u8,
    /// Whether the forker had ended, or was about to: it is not tracked and nobody will tell.
    pub forker_gone: u8,
    /// True length of the argument area, bytes.
    pub argv_bytes: u64,
    /// Start time of the thread group that forked the process, ns.
    pub forker_start_ns: u64,
    /// That thread group (0 if not matched); the first of the chain unless `reparented`.
    pub forker: u32,
    /// Bytes of argv that follow.
    pub argv_len: u32,
    /// Processes that follow.
    pub chain_len: u32,
    /// Thread group id of the worker that it descended from before this exec, 0 if of none.
    pub worker_before: u32,
    /// Start time of that worker, ns.
    pub worker_before_start_ns: u64,
    /// Start time of the thread group that forked the forker, ns.
    pub above_start_ns: u64,
    /// That thread group, 0 where that is not known.
    pub above: u32,
    /// Whether the forker, if it is the first of the chain, has executed nothing since it was forked
    /// (`PF_FORKNOEXEC`, include/linux/sched.h).
    pub forked_only: u32,
}

/// Most bytes that follow an [`ExecRecord`].
pub const EXEC_TAIL_MAX: usize = ARGV_MAX + CHAIN_MAX * size_of::<TaskInfo>();

/// Where the chain begins behind an argv of this length: at the next multiple of 8.
#[inline(always)]
pub const fn argv_padded(argv_len: usize) -> usize {
    (argv_len + 7) & !7
}

/// An exec without a match whose argument area is longer than what is searched: userspace looks at
/// the rest. Nothing is tracked for it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct LongArgvRecord {
    /// Header.
    pub header: Header,
    /// Start time of the process, ns.
    pub start_ns: u64,
    /// Start time of the thread group that forked it, ns.
    pub forker_start_ns: u64,
    /// Its thread group id.
    pub tgid: u32,
    /// The thread group that forked it.
    pub forker: u32,
    /// A [`ParentKnownBy`].
    pub parent_known_by: u32,
    /// Whether it is the last that is reported in this window: others may follow unreported.
    pub is_last: u32,
}

/// A worker or a descendant of one forked.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ForkRecord {
    /// Header.
    pub header: Header,
    /// The child.
    pub child: TaskInfo,
    /// Start time of the parent, ns.
    pub parent_start_ns: u64,
    /// Start time of the worker it descends from, ns.
    pub worker_start_ns: u64,
    /// Thread group id of the parent.
    pub parent: u32,
    /// Thread group id of the worker it descends from.
    pub worker: u32,
}

/// A tracked thread group ended.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ExitRecord {
    /// Header.
    pub header: Header,
    /// Start time, ns.
    pub start_ns: u64,
    /// Reads of fd 0 that returned data (workers, with counted calls).
    pub reads: u64,
    /// Thread group id.
    pub tgid: u32,
    /// Its role.
    pub role: u32,
    /// Wait status: exit code in bits 8–15, signal in bits 0–6, core dump in bit 7.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

/// `SignalRecord::origin`: a task sent it.
pub const SENT_BY_TASK: u32 = 0;
/// The kernel itself did (`SEND_SIG_PRIV`): `sender` is only who was running.
pub const SENT_BY_KERNEL: u32 = 1;
/// The kernel did while the sender ended, as its child had asked for (`PR_SET_PDEATHSIG`).
pub const SENT_AT_PARENT_END: u32 = 2;

/// A signal was generated for a tracked thread group.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct SignalRecord {
    /// Header.
    pub header: Header,
    /// Start time of the target, ns.
    pub start_ns: u64,
    /// Thread group id of the target.
    pub tgid: u32,
    /// Its role.
    pub role: u32,
    /// Signal number.
    pub signal: u32,
    /// `si_code`.
    pub si_code: i32,
    /// `TRACE_SIGNAL_*`: 0 delivered, 1 ignored, 2 already pending, 3 and 4 lost
    /// (include/trace/events/signal.h).
    pub result: u32,
    /// Why it was sent: [`SENT_BY_TASK`], [`SENT_BY_KERNEL`] or [`SENT_AT_PARENT_END`].
    pub origin: u32,
    /// Who was running: the sender.
    pub sender: TaskInfo,
}

/// The master of a watched PTY was closed for good.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct TerminalRecord {
    /// Header.
    pub header: Header,
    /// Who closed it.
    pub closer: TaskInfo,
    /// Which.
    pub terminal: TerminalKey,
}

/// A PTY: key of the map of watched terminals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct TerminalKey {
    /// `super_block.s_dev` of its devpts: major number in the upper 12 bits, minor in the lower 20
    /// (`MKDEV`, include/linux/kdev_t.h).
    pub device: u32,
    /// Its index there.
    pub index: u32,
}
