//! The wire format that the kernel programs and userspace share: records in the ring buffer, the
//! values of the maps, the table of kernel fields whose offsets userspace looks up.
//!
//! Everything is in native byte order and `repr(C)` without implicit padding. A record starts with
//! a [`Header`] that says how long it is and by which version it was written.
#![no_std]

mod counter;
mod field;
mod flat;
mod record;
mod share;

pub use counter::Counter;
pub use field::{FIELD_COUNT, Field, UNKNOWN_OFFSET};
pub use flat::{
    ARMED_MAX, ArmedThread, CLONES_MAX, CloneInfo, ClonedThread, FLAT_GATEWAYS_MAX, FLAT_PORTS,
    FlatGateway, REPLY_MESSAGES_MAX, REPLY_WINDOW_NS, THREADS_MAX, ThreadAct, ThreadActRecord,
    ThreadForkRecord, gateway_bit,
};
pub use record::{
    ARGV_MAX, CHAIN_MAX, EXEC_TAIL_MAX, ExecRecord, ExitRecord, ForkRecord, Header, LongArgvRecord,
    NO_TERMINAL, ParentKnownBy, RecordKind, SENT_AT_PARENT_END, SENT_BY_KERNEL, SENT_BY_TASK,
    SignalRecord, TaskInfo, TerminalKey, TerminalRecord, WIRE_VERSION, argv_padded,
};
pub use share::{
    DESCENDANTS_MAX, DESCENDANTS_SHARE, FAMILY_SHARE, RATES_MAX, RING_COMMON, RING_SHARE, Rate,
    SHARE_SLOTS, SIGNAL_WINDOW_BITS, SIGNALLED_MAX, SIGNALS_EACH, SIGNALS_OF_USER, Shares,
    SignalBurst, SignalKey, TRACKED_SHARE, share_slot,
};

/// Workers, and processes above them, that can be tracked at once (entries of `TRACKED`).
pub const TRACKED_MAX: u32 = 16_384;

/// Terminals that can be watched at once.
pub const TERMINALS_MAX: u32 = 4_096;

/// Slots of the fork cache; a power of two. A slot is overwritten by a fork whose child's pid has
/// the same low bits, so a parent is forgotten only if that many forks happen between a worker's
/// fork and its exec.
pub const FORK_SLOTS: u32 = 16_384;

/// In [`ForkSlot::parent`]: the child was cloned as a sibling (`CLONE_PARENT`), so that its forker
/// never was its parent.
pub const FORKED_AS_SIBLING: u32 = 1 << 31;

/// Slots of the table of marks; a power of two. A slot holds how many tracked processes have a pid
/// with these low bits: where it holds 0, nothing needs to be looked up in `TRACKED`. Pids are
/// given out in order, so the marks of what runs now share a few cache lines, where the buckets of
/// a hash map are spread over hundreds of KiB: a lookup there misses cache and TLB, which costs an
/// unrelated exec more than the rest of the program (215 ns against 80 where it was measured).
pub const MARK_SLOTS: usize = 16_384;

/// The mark slot of a thread group.
#[inline(always)]
pub const fn mark_slot(tgid: u32) -> usize {
    tgid as usize & (MARK_SLOTS - 1)
}

/// Default size of the ring buffer in bytes; a power of two and a multiple of the page size.
pub const RING_BYTES: u32 = 1 << 20;

/// Words (u64) of the argv word filter; a power of two. 512 bits fit one cache line.
pub const WORD_FILTER_WORDS: usize = 8;

/// Most names that the worker rules may have together: tokens, and programs.
pub const RULE_TOKENS_MAX: u32 = 128;

/// Most bytes that a rule's tokens have in argv, with their NULs.
pub const RULE_BYTES_MAX: usize = 256;

/// The place of a program in the worker rules: the last part of any token is its name, and that is a
/// match. The bits below are those of tokens.
pub const PROGRAM_PLACE: u64 = 1 << 63;

/// Length of the end of a token by which the tail filter knows programs, bytes.
pub const TAIL_BYTES: usize = 4;

/// Argument areas up to this length, bytes, are looked through by the filters to their end, and not
/// reported where these rule a match out.
pub const ARGV_FILTERED_MAX: u64 = 256 << 10;

/// Execs that may match behind what is searched of their arguments, and are reported in each window of 2^[`LONG_ARGV_WINDOW_BITS`] ns: where they are more, userspace searches /proc instead of
/// looking at each.
pub const LONG_ARGV_MAX: u64 = 256;

/// Length of such a window (134 ms), as a power of two of ns.
pub const LONG_ARGV_WINDOW_BITS: u32 = 27;

/// What a tracked process is, as the kernel programs store it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Role {
    /// Matched by a worker rule.
    Worker = 1,
    /// Descends from a worker.
    Descendant = 2,
    /// Forked a worker.
    Gateway = 3,
    /// Above a gateway, up to its session leader.
    Ancestor = 4,
}

impl Role {
    /// The role with this number.
    pub const fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Worker,
            2 => Self::Descendant,
            3 => Self::Gateway,
            4 => Self::Ancestor,
            _ => return None,
        })
    }
}

/// Value of the maps of tracked processes; their key is the thread group id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Tracked {
    /// `task_struct.start_boottime` of the thread group leader, ns.
    pub start_ns: u64,
    /// Start time of the worker it descends from, ns; its own for a worker, else 0.
    pub worker_start_ns: u64,
    /// Reads of fd 0 that returned data (workers, with counted calls).
    pub reads: u64,
    /// Thread group id of the worker it descends from; its own for a worker, else 0.
    pub worker: u32,
    /// A [`Role`].
    pub role: u32,
    /// The user to whose share it counts: the real user id of the worker for whose sake it is
    /// tracked.
    pub owner: u32,
    /// Of a worker, how many descendants are counted to it; of a descendant, 1 if it is one of those.
    pub family: u32,
}

/// A clock tick of /proc (`USER_HZ` is 100 on every architecture that is built for), ns.
pub const TICK_NS: u64 = 10_000_000;

/// Whether the start time in the map is that of a process that started at `precise` ns. One that
/// userspace read from /proc is rounded down to a tick; the programs' own are exact, so that a pid
/// that is reused within a tick is another process.
#[inline(always)]
pub const fn is_same_start(in_map: u64, precise: u64) -> bool {
    in_map == precise || (in_map.is_multiple_of(TICK_NS) && precise.wrapping_sub(in_map) < TICK_NS)
}

/// One slot of the fork cache: who forked `child`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ForkSlot {
    /// Start time of the child, ns: tells a reused pid from this one.
    pub child_start_ns: u64,
    /// Start time of the thread group that forked it, ns.
    pub parent_start_ns: u64,
    /// Thread group id of the child.
    pub child: u32,
    /// Thread group id of the forker, and [`FORKED_AS_SIBLING`].
    pub parent: u32,
}

/// 64-bit FNV-1a, by which both sides name argv tokens. Userspace confirms a match on the exact
/// tokens, so a collision costs a look and nothing else.
pub const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = FNV_OFFSET;
    let mut i = 0;
    while i < bytes.len() {
        hash = fnv1a_step(hash, bytes[i]);
        i += 1;
    }
    hash
}

/// Start value of [`fnv1a`].
pub const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// One step of [`fnv1a`].
#[inline(always)]
pub const fn fnv1a_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The bits of a filter (0–511) that stand for one aligned 8-byte word of argv, or for the end of a
/// token. Three, so
/// that a common word such as `/usr/bin` collides with a rule's words in one of 10,000 cases.
#[inline(always)]
pub const fn word_bits(word: u64) -> [u32; 3] {
    let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mask = (WORD_FILTER_WORDS * 64 - 1) as u32;
    [(mixed >> 37) as u32 & mask, (mixed >> 46) as u32 & mask, (mixed >> 55) as u32 & mask]
}

/// Signals that are worth a record: those that end or stop a process by default and are sent by
/// somebody. Timers, window changes and SIGCHLD would only wake the reader.
pub const SIGNALS_RECORDED: u64 = bit(1) // SIGHUP
    | bit(2) // SIGINT
    | bit(3) // SIGQUIT
    | bit(4) // SIGILL
    | bit(5) // SIGTRAP
    | bit(6) // SIGABRT
    | bit(7) // SIGBUS
    | bit(8) // SIGFPE
    | bit(9) // SIGKILL
    | bit(10) // SIGUSR1
    | bit(11) // SIGSEGV
    | bit(12) // SIGUSR2
    | bit(13) // SIGPIPE
    | bit(15) // SIGTERM
    | bit(18) // SIGCONT
    | bit(19) // SIGSTOP
    | bit(20) // SIGTSTP
    | bit(24) // SIGXCPU
    | bit(25) // SIGXFSZ
    | bit(31); // SIGSYS

const fn bit(signal: u32) -> u64 {
    1 << signal
}
