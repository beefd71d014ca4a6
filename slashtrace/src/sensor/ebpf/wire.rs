use bytes::{Buf, Bytes};
use slashtrace_ebpf::{
    ARGV_MAX, CHAIN_MAX, NO_TERMINAL, ParentKnownBy, RecordKind, Role, TerminalKey, WIRE_VERSION,
};

/// Why a record from the ring buffer could not be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// It is shorter or longer than its kind, or than it says.
    Size,
    /// It was written by another version of the programs.
    Version(u8),
    /// Its kind, or a value in it, is not one that this version knows.
    Unknown,
}

/// A thread group as the kernel saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Task {
    pub tgid: u32,
    pub start_ns: u64,
    pub uid: u32,
    pub sid: u32,
    /// Device 0 where that is not known.
    pub terminal: Option<TerminalKey>,
    /// Without the padding.
    pub comm: Bytes,
}

/// A decoded record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub boottime_ns: u64,
    pub what: What,
}

/// What a record says; see the structures of the same names in `slashtrace_ebpf`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    Exec(Exec),
    Fork {
        child: Task,
        parent: (u32, u64),
        worker: (u32, u64),
    },
    Exit {
        tgid: u32,
        start_ns: u64,
        role: Role,
        status: u32,
        reads: u64,
    },
    Signal {
        tgid: u32,
        start_ns: u64,
        role: Role,
        signal: u32,
        si_code: i32,
        result: u32,
        sender: Option<Task>,
    },
    Terminal {
        /// `super_block.s_dev` of its devpts.
        device: u32,
        index: u32,
        closer: Task,
    },
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exec {
    pub task: Task,
    pub role_before: Option<Role>,
    pub matched: bool,
    pub parent_known_by: Option<ParentKnownBy>,
    pub reparented: bool,
    pub argv_bytes: u64,
    /// Start of the argument area.
    pub argv: Bytes,
    pub forker: Option<Task>,
    /// `real_parent` first.
    pub chain: Vec<Task>,
}

const HEADER: usize = 16;
const TASK: usize = 48;
const EXEC_FIXED: usize = HEADER + TASK + 8 + 16 + TASK + CHAIN_MAX * TASK;

/// Decodes one record.
pub fn decode(mut record: Bytes) -> Result<Event, DecodeError> {
    let length = record.len();
    if length < HEADER {
        return Err(DecodeError::Size);
    }
    let version = record.get_u8();
    if version != WIRE_VERSION {
        return Err(DecodeError::Version(version));
    }
    let kind = record.get_u8();
    record.advance(2);
    let size = record.get_u32_ne() as usize;
    let boottime_ns = record.get_u64_ne();
    // The ring buffer keeps records at multiples of 8 bytes but gives their true length.
    if size != length {
        return Err(DecodeError::Size);
    }
    let what = match kind {
        k if k == RecordKind::Exec as u8 => exec(record, length)?,
        k if k == RecordKind::Fork as u8 => {
            expect(&record, TASK + 24)?;
            let child = task(&mut record);
            let (parent_start, worker_start) = (record.get_u64_ne(), record.get_u64_ne());
            let (parent, worker) = (record.get_u32_ne(), record.get_u32_ne());
            What::Fork { child, parent: (parent, parent_start), worker: (worker, worker_start) }
        }
        k if k == RecordKind::Exit as u8 => {
            expect(&record, 32)?;
            let (start_ns, reads, tgid) =
                (record.get_u64_ne(), record.get_u64_ne(), record.get_u32_ne());
            let role = role(record.get_u32_ne())?;
            What::Exit { tgid, start_ns, role, status: record.get_u32_ne(), reads }
        }
        k if k == RecordKind::Signal as u8 => {
            expect(&record, 32 + TASK)?;
            let (start_ns, tgid) = (record.get_u64_ne(), record.get_u32_ne());
            let role = role(record.get_u32_ne())?;
            let (signal, si_code) = (record.get_u32_ne(), record.get_i32_ne());
            let (result, from_kernel) = (record.get_u32_ne(), record.get_u32_ne());
            let sender = task(&mut record);
            What::Signal {
                tgid,
                start_ns,
                role,
                signal,
                si_code,
                result,
                sender: (from_kernel == 0).then_some(sender),
            }
        }
        k if k == RecordKind::Terminal as u8 => {
            expect(&record, TASK + 8)?;
            let closer = task(&mut record);
            What::Terminal { device: record.get_u32_ne(), index: record.get_u32_ne(), closer }
        }
        _ => return Err(DecodeError::Unknown),
    };
    Ok(Event { boottime_ns, what })
}

fn exec(mut record: Bytes, length: usize) -> Result<What, DecodeError> {
    if length < EXEC_FIXED {
        return Err(DecodeError::Size);
    }
    let this = task(&mut record);
    let role_before = match record.get_u32_ne() {
        0 => None,
        number => Some(role(number)?),
    };
    let matched = record.get_u8() != 0;
    let parent_known_by = match record.get_u8() {
        0 => None,
        n if n == ParentKnownBy::Fork as u8 => Some(ParentKnownBy::Fork),
        n if n == ParentKnownBy::RealParent as u8 => Some(ParentKnownBy::RealParent),
        _ => return Err(DecodeError::Unknown),
    };
    let reparented = record.get_u8() != 0;
    record.advance(1);
    let argv_bytes = record.get_u64_ne();
    let (argv_len, chain_len) = (record.get_u32_ne() as usize, record.get_u32_ne() as usize);
    if argv_len != length - EXEC_FIXED || argv_len > ARGV_MAX || chain_len > CHAIN_MAX {
        return Err(DecodeError::Size);
    }
    let forker = task(&mut record);
    let mut chain: Vec<Task> = (0..CHAIN_MAX).map(|_| task(&mut record)).collect();
    chain.truncate(chain_len);
    Ok(What::Exec(Exec {
        task: this,
        role_before,
        matched,
        parent_known_by,
        reparented,
        argv_bytes,
        argv: record,
        forker: (forker.tgid != 0).then_some(forker),
        chain,
    }))
}

fn expect(record: &Bytes, size: usize) -> Result<(), DecodeError> {
    if record.len() == size { Ok(()) } else { Err(DecodeError::Size) }
}

fn role(number: u32) -> Result<Role, DecodeError> {
    Role::from_u32(number).ok_or(DecodeError::Unknown)
}

fn task(record: &mut Bytes) -> Task {
    let start_ns = record.get_u64_ne();
    let (tgid, uid) = (record.get_u32_ne(), record.get_u32_ne());
    let (sid, _) = (record.get_u32_ne(), record.get_u32_ne());
    let terminal = TerminalKey { device: record.get_u32_ne(), index: record.get_u32_ne() };
    let mut comm = record.split_to(16);
    comm.truncate(comm.iter().position(|&b| b == 0).unwrap_or(16));
    let terminal = (terminal.index != NO_TERMINAL).then_some(terminal);
    Task { tgid, start_ns, uid, sid, terminal, comm }
}
