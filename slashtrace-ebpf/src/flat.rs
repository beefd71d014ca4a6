#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// Gateways of flat trees at once (entries of `GATEWAYS`).
pub const FLAT_GATEWAYS_MAX: u32 = 64;
/// Ports of one gateway on which messages are looked at.
pub const FLAT_PORTS: usize = 4;
/// Threads of gateways that are remembered; the least recently used is forgotten.
pub const THREADS_MAX: u32 = 4_096;
/// Threads that forked, or cloned another one, and have not woken the event loop since.
pub const ARMED_MAX: u32 = 2_048;
/// How many threads a thread's origin is followed.
pub const CLONES_MAX: usize = 4;
/// Messages of a gateway are reported for this long after a wake-up, ns.
pub const REPLY_WINDOW_NS: u64 = 150_000_000;
/// Messages that are reported after a wake-up, and one that says that there were more.
pub const REPLY_MESSAGES_MAX: u32 = 129;

/// The bit of a thread group in the word that says which groups may be gateways.
#[inline(always)]
pub const fn gateway_bit(tgid: u32) -> u64 {
    1 << (tgid & 63)
}

/// A gateway that serves several terminals: value of `GATEWAYS`, by thread group id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct FlatGateway {
    /// Its messages are reported until then, ns of the boot clock.
    pub open_until_ns: u64,
    /// TCP ports on which it listens; 0 where there is no more.
    pub ports: [u16; FLAT_PORTS],
    /// Messages that are still to be reported.
    pub budget: u32,
    /// Zero.
    pub reserved: u32,
}

/// A thread of a gateway: value of `THREADS`, by thread id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ClonedThread {
    /// Its start time, ns: tells a reused id from this one.
    pub start_ns: u64,
    /// That of the thread that cloned it.
    pub creator_start_ns: u64,
    /// When it was cloned, ns of the boot clock.
    pub at_ns: u64,
    /// When its creator woke the event loop next, ns of the boot clock; 0 if it has not.
    pub replied_ns: u64,
    /// Thread id of its creator.
    pub creator: u32,
    /// Its thread group id.
    pub tgid: u32,
    /// The thread that its creator cloned before it and had not woken the event loop since; 0 if none.
    pub sibling: u32,
    /// Zero.
    pub reserved: u32,
}

/// A thread that forked a process: value of `ARMED`, by thread id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ArmedThread {
    /// Its start time, ns.
    pub start_ns: u64,
    /// Its thread group id.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// How a thread came to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct CloneInfo {
    /// When it was cloned, ns of the boot clock.
    pub at_ns: u64,
    /// When its creator woke the event loop next, ns of the boot clock; 0 if it has not.
    pub replied_ns: u64,
    /// Thread id of its creator.
    pub by: u32,
    /// Zero.
    pub reserved: u32,
}

impl CloneInfo {
    /// Of no thread.
    pub const NONE: Self = Self { at_ns: 0, replied_ns: 0, by: 0, reserved: 0 };
}

/// A thread of a gateway forked a process.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ThreadForkRecord {
    /// Header.
    pub header: Header,
    /// Start time of the child, ns.
    pub child_start_ns: u64,
    /// How the thread came to be, and those before it; `clones_len` of them.
    pub clones: [CloneInfo; CLONES_MAX],
    /// Thread group id of the child.
    pub child: u32,
    /// Thread group id of the gateway.
    pub tgid: u32,
    /// Thread id of the forker.
    pub tid: u32,
    /// How many of `clones` there are.
    pub clones_len: u32,
}

/// What a gateway, or a thread of it that had forked, did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum ThreadAct {
    /// The thread woke the event loop.
    Woke = 1,
    /// The thread exited.
    Exited = 2,
    /// The gateway sent something on a connection to its port.
    Sent = 3,
    /// The same, and what it sends from now on is not reported.
    Cut = 4,
}

impl ThreadAct {
    /// The act with this number.
    pub const fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Woke,
            2 => Self::Exited,
            3 => Self::Sent,
            4 => Self::Cut,
            _ => return None,
        })
    }
}

/// A gateway, or a thread of it, did something.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ThreadActRecord {
    /// Header.
    pub header: Header,
    /// Thread group id of the gateway.
    pub tgid: u32,
    /// Thread id of who did it.
    pub tid: u32,
    /// A [`ThreadAct`].
    pub act: u32,
    /// TCP port of the other end, of what was sent.
    pub port: u32,
}
