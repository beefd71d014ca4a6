//! Maps and globals. Userspace finds them by these names.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use slashtrace_ebpf::{
    ARGV_MAX, ARMED_MAX, ArmedThread, CHAIN_MAX, ClonedThread, Counter, DESCENDANTS_MAX,
    EXEC_TAIL_MAX, ExecRecord, FIELD_COUNT, FLAT_GATEWAYS_MAX, FORK_SLOTS, Field, FlatGateway,
    ForkSlot, MARK_SLOTS, RATES_MAX, RING_BYTES, RULE_TOKENS_MAX, Rate, SIGNALLED_MAX, Shares,
    SignalBurst, SignalKey, TERMINALS_MAX, THREADS_MAX, TRACKED_MAX, TerminalKey, Tracked,
    WORD_FILTER_WORDS,
};

/// Records to userspace.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Workers and who is above them, by thread group id.
#[map]
pub static TRACKED: HashMap<u32, Tracked> = HashMap::with_max_entries(TRACKED_MAX, 0);

/// Descendants of workers, by thread group id. Their own, so that nobody who forks without end below
/// a worker keeps workers from being tracked.
#[map]
pub static DESCENDANTS: HashMap<u32, Tracked> = HashMap::with_max_entries(DESCENDANTS_MAX, 0);

/// How much of both each user has. Userspace maps it, to count what it adds and removes itself.
#[map]
pub static SHARES: Array<Shares> = Array::with_max_entries(1, MMAPABLE);

/// Signals that had no record of their own, until userspace takes them out.
#[map]
pub static SIGNALLED: LruHashMap<SignalKey, SignalBurst> =
    LruHashMap::with_max_entries(SIGNALLED_MAX, 0);

/// What each user's processes did lately.
#[map]
pub static RATES: LruHashMap<u32, Rate> = LruHashMap::with_max_entries(RATES_MAX, 0);

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// How many tracked processes there are by [`slashtrace_ebpf::mark_slot`] of their pids. Userspace
/// maps it, to count those that it adds and removes itself.
#[map]
pub static MARKS: Array<[u32; MARK_SLOTS]> = Array::with_max_entries(1, MMAPABLE);

/// Terminals whose end is worth a record: those that a worker may belong to.
#[map]
pub static TERMINALS: HashMap<TerminalKey, u32> = HashMap::with_max_entries(TERMINALS_MAX, 0);

/// Which thread groups may be in [`GATEWAYS`]: a bit each ([`slashtrace_ebpf::gateway_bit`]). Zero
/// where there is none.
#[map]
pub static GATEWAY_BITS: Array<u64> = Array::with_max_entries(1, 0);

/// Gateways that serve several terminals, by thread group id.
#[map]
pub static GATEWAYS: HashMap<u32, FlatGateway> = HashMap::with_max_entries(FLAT_GATEWAYS_MAX, 0);

/// Their threads, by thread id.
#[map]
pub static THREADS: LruHashMap<u32, ClonedThread> = LruHashMap::with_max_entries(THREADS_MAX, 0);

/// By thread id: the thread that it cloned last, until it wakes the event loop. Those before it are
/// its siblings.
#[map]
pub static NEWEST: LruHashMap<u32, u32> = LruHashMap::with_max_entries(ARMED_MAX, 0);

/// Threads of gateways that forked a process, by thread id.
#[map]
pub static ARMED: LruHashMap<u32, ArmedThread> = LruHashMap::with_max_entries(ARMED_MAX, 0);

/// Who forked whom lately, by the low bits of the child's pid.
#[map]
pub static FORKS: Array<ForkSlot> = Array::with_max_entries(FORK_SLOTS, 0);

/// Where the exec program reads what follows in a long argument area, piece by piece.
#[map]
pub static ARGV_PIECE: PerCpuArray<[u64; ARGV_MAX / 8]> = PerCpuArray::with_max_entries(1, 0);

/// Window, and number of reported execs in it, of [`slashtrace_ebpf::LONG_ARGV_MAX`].
#[map]
pub static LONG_ARGV: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Worker rules: hash of a token, or of the last part of one → the set of places (bits) where it may
/// stand.
#[map]
pub static RULE_TOKENS: HashMap<u64, u64> = HashMap::with_max_entries(RULE_TOKENS_MAX, 0);

/// Counters, indexed by [`Counter`].
#[map]
pub static COUNTERS: PerCpuArray<[u64; Counter::ALL.len()]> = PerCpuArray::with_max_entries(1, 0);

/// Where the exec program builds its record. Its own: an interrupt on the same CPU may run the
/// signal program meanwhile.
#[map]
pub static EXEC_SCRATCH: PerCpuArray<ExecScratch> = PerCpuArray::with_max_entries(1, 0);

/// Value of [`EXEC_SCRATCH`].
#[repr(C)]
pub struct ExecScratch {
    /// The record's fixed part.
    pub record: ExecRecord,
    /// What follows it: argv, then the chain.
    pub tail: [u8; EXEC_TAIL_MAX],
    /// The processes of the chain that this exec began to track.
    pub begun: [Begun; CHAIN_MAX],
}

/// A process above a worker.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Begun {
    /// Address of the `task_struct` of its leader.
    pub leader: u64,
    /// Its thread group id.
    pub tgid: u32,
    /// The role that it is tracked in; 0 if not, or if it was tracked before.
    pub role: u32,
}

/// Offsets of kernel fields, indexed by [`Field`].
#[unsafe(no_mangle)]
pub static OFFSETS: [u32; FIELD_COUNT] = [0; FIELD_COUNT];

/// Bits of [`slashtrace_ebpf::word_bits`] for words of which each worker's argv has one.
#[unsafe(no_mangle)]
pub static WORD_FILTER: [u64; WORD_FILTER_WORDS] = [0; WORD_FILTER_WORDS];

/// Bits of [`slashtrace_ebpf::word_bits`] for the ends of the tokens that may be a worker's program.
#[unsafe(no_mangle)]
pub static TAIL_FILTER: [u64; WORD_FILTER_WORDS] = [0; WORD_FILTER_WORDS];

/// Whether there are rules that name tokens.
#[unsafe(no_mangle)]
pub static BY_TOKENS: Global<u32> = Global::new(0);

/// Whether there are rules that name a program.
#[unsafe(no_mangle)]
pub static BY_PROGRAM: Global<u32> = Global::new(0);

/// Places in the worker rules where a rule starts.
#[unsafe(no_mangle)]
pub static RULE_STARTS: Global<u64> = Global::new(0);

/// Places in the worker rules where a rule ends: reached means matched.
#[unsafe(no_mangle)]
pub static RULE_ENDS: Global<u64> = Global::new(0);

/// Length of the shortest argument area that can match, bytes.
#[unsafe(no_mangle)]
pub static ARGV_MIN: Global<u64> = Global::new(0);

/// `PIDTYPE_SID` of `enum pid_type`.
#[unsafe(no_mangle)]
pub static PIDTYPE_SID: Global<u32> = Global::new(0);

/// Number of the read system call.
#[unsafe(no_mangle)]
pub static SYSCALL_READ: Global<u64> = Global::new(0);

/// An odd number drawn at the start, for [`slashtrace_ebpf::share_slot`].
#[unsafe(no_mangle)]
pub static SHARE_SPREAD: Global<u32> = Global::new(1);

/// Whether the programs log.
#[unsafe(no_mangle)]
pub static LOG: Global<u32> = Global::new(0);

/// Offset of a field, bytes. The verifier sees a constant.
#[inline(always)]
pub fn offset(field: Field) -> usize {
    // SAFETY: `OFFSETS` has an element for each field. Volatile because userspace replaces the
    // value before the program is loaded, so the compiler must not fold the zeros above.
    unsafe { core::ptr::read_volatile(OFFSETS.as_ptr().add(field as usize)) as usize }
}
