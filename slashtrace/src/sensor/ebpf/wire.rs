use bytes::Bytes;
use slashtrace_ebpf::{
    ARGV_MAX, CHAIN_MAX, CloneInfo, ExecRecord, ExitRecord, ForkRecord, Header, LongArgvRecord,
    NO_TERMINAL, ParentKnownBy, RecordKind, Role, SENT_AT_PARENT_END, SENT_BY_KERNEL, SignalBurst,
    SignalKey, SignalRecord, TaskInfo, TerminalKey, TerminalRecord, ThreadAct, ThreadActRecord,
    ThreadForkRecord, WIRE_VERSION, argv_padded,
};
use zerocopy::FromBytes;

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
#[derive(Clone, Debug, Default, Eq, PartialEq)]
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
        /// It was sent because the sender ended.
        parent_ended: bool,
        /// Where it stands for signals that the kernel only counted.
        held: Option<Held>,
    },
    Terminal {
        /// `super_block.s_dev` of its devpts.
        device: u32,
        index: u32,
        closer: Task,
    },
    ThreadFork {
        gateway: u32,
        child: (u32, u64),
        tid: u32,
        /// Nearest first.
        clones: Vec<CloneInfo>,
    },
    ThreadAct {
        tgid: u32,
        tid: u32,
        act: ThreadAct,
        port: u16,
    },
    LongArgv(LongArgv),
}

/// Signals that the kernel only counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    pub count: u32,
    /// When the first and the last were sent, ns of the boot clock.
    pub first_ns: u64,
    pub last_ns: u64,
}

/// An exec whose arguments were not searched to their end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LongArgv {
    pub tgid: u32,
    pub start_ns: u64,
    /// Who forked it: thread group and start time.
    pub forker: (u32, u64),
    pub parent_known_by: ParentKnownBy,
    /// Whether others may have followed unreported.
    pub is_last: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the record")]
pub struct Exec {
    pub task: Task,
    pub role_before: Option<Role>,
    /// The worker that it descended from before: thread group and start time.
    pub worker_before: Option<(u32, u64)>,
    /// Who forked the forker in turn, and when that one started.
    pub above: Option<(u32, u64)>,
    /// Whether the forker has executed nothing since it was forked.
    pub forked_only: bool,
    pub matched: bool,
    pub parent_known_by: Option<ParentKnownBy>,
    pub reparented: bool,
    /// The forker had ended, or was about to, and is not tracked.
    pub forker_gone: bool,
    pub argv_bytes: u64,
    /// Start of the argument area.
    pub argv: Bytes,
    pub forker: Option<Task>,
    /// `real_parent` first.
    pub chain: Vec<Task>,
}

/// Whether a record tells of a signal, from its header alone.
pub fn is_signal(record: &Bytes) -> bool {
    Header::read_from_prefix(record)
        .is_ok_and(|(header, _)| header.kind == RecordKind::Signal as u8)
}

/// Decodes one record.
pub fn decode(record: &Bytes) -> Result<Event, DecodeError> {
    let (header, _) = Header::read_from_prefix(record).map_err(|_| DecodeError::Size)?;
    if header.version != WIRE_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    // The ring buffer keeps records at multiples of 8 bytes but gives their true length.
    if header.size as usize != record.len() {
        return Err(DecodeError::Size);
    }
    let what = match RecordKind::from_u8(header.kind).ok_or(DecodeError::Unknown)? {
        RecordKind::Exec => What::Exec(exec(record)?),
        RecordKind::Fork => {
            let this: ForkRecord = whole(record)?;
            What::Fork {
                child: task(&this.child),
                parent: (this.parent, this.parent_start_ns),
                worker: (this.worker, this.worker_start_ns),
            }
        }
        RecordKind::Exit => {
            let ExitRecord { tgid, start_ns, status, reads, role: number, .. } = whole(record)?;
            What::Exit { tgid, start_ns, role: role(number)?, status, reads }
        }
        RecordKind::Signal => {
            let this: SignalRecord = whole(record)?;
            What::Signal {
                tgid: this.tgid,
                start_ns: this.start_ns,
                role: role(this.role)?,
                signal: this.signal,
                si_code: this.si_code,
                result: this.result,
                sender: (this.origin != SENT_BY_KERNEL).then(|| task(&this.sender)),
                parent_ended: this.origin == SENT_AT_PARENT_END,
                held: None,
            }
        }
        RecordKind::Terminal => {
            let TerminalRecord { closer, terminal, .. } = whole(record)?;
            What::Terminal { device: terminal.device, index: terminal.index, closer: task(&closer) }
        }
        RecordKind::ThreadFork => {
            let this: ThreadForkRecord = whole(record)?;
            let clones = this.clones.get(..this.clones_len as usize).ok_or(DecodeError::Size)?;
            What::ThreadFork {
                gateway: this.tgid,
                child: (this.child, this.child_start_ns),
                tid: this.tid,
                clones: clones.to_vec(),
            }
        }
        RecordKind::ThreadAct => {
            let ThreadActRecord { tgid, tid, act, port, .. } = whole(record)?;
            let act = ThreadAct::from_u32(act).ok_or(DecodeError::Unknown)?;
            let port = u16::try_from(port).map_err(|_| DecodeError::Unknown)?;
            What::ThreadAct { tgid, tid, act, port }
        }
        RecordKind::LongArgv => {
            let this: LongArgvRecord = whole(record)?;
            let known_by = u8::try_from(this.parent_known_by).ok();
            What::LongArgv(LongArgv {
                tgid: this.tgid,
                start_ns: this.start_ns,
                forker: (this.forker, this.forker_start_ns),
                parent_known_by: known_by
                    .and_then(ParentKnownBy::from_u8)
                    .ok_or(DecodeError::Unknown)?,
                is_last: this.is_last != 0,
            })
        }
    };
    Ok(Event { boottime_ns: header.boottime_ns, what })
}

/// Signals that the kernel only counted, as one event at `boottime_ns`. `None` if the role is not one
/// that this version knows.
pub fn held(key: SignalKey, burst: &SignalBurst, boottime_ns: u64) -> Option<Event> {
    let what = What::Signal {
        tgid: key.tgid,
        start_ns: burst.start_ns,
        role: Role::from_u32(burst.role)?,
        signal: key.signal,
        si_code: burst.si_code,
        result: burst.result,
        sender: (burst.origin != SENT_BY_KERNEL).then(|| task(&burst.sender)),
        parent_ended: burst.origin == SENT_AT_PARENT_END,
        held: Some(Held { count: burst.held, first_ns: burst.first_ns, last_ns: burst.last_ns }),
    };
    Some(Event { boottime_ns, what })
}

fn exec(record: &Bytes) -> Result<Exec, DecodeError> {
    let (this, tail) = ExecRecord::read_from_prefix(record).map_err(|_| DecodeError::Size)?;
    let (argv_len, chain_len) = (this.argv_len as usize, this.chain_len as usize);
    if argv_len > ARGV_MAX || chain_len > CHAIN_MAX {
        return Err(DecodeError::Size);
    }
    let chain = tail.get(argv_padded(argv_len)..).ok_or(DecodeError::Size)?;
    if chain.len() != chain_len * size_of::<TaskInfo>() {
        return Err(DecodeError::Size);
    }
    let chain = chain
        .chunks_exact(size_of::<TaskInfo>())
        .map(|info| TaskInfo::read_from_bytes(info).map(|info| task(&info)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| DecodeError::Size)?;
    let reparented = this.reparented != 0;
    // Of a forker that is not above it any more, only the identity is known.
    let forker = chain.first().filter(|_| !reparented).cloned().unwrap_or_else(|| {
        task(&TaskInfo { tgid: this.forker, start_ns: this.forker_start_ns, ..TaskInfo::NONE })
    });
    Ok(Exec {
        task: task(&this.task),
        role_before: match this.role_before {
            0 => None,
            number => Some(role(number)?),
        },
        worker_before: (this.worker_before != 0)
            .then_some((this.worker_before, this.worker_before_start_ns)),
        above: (this.above != 0).then_some((this.above, this.above_start_ns)),
        forked_only: this.forked_only != 0,
        matched: this.matched != 0,
        parent_known_by: match this.parent_known_by {
            0 => None,
            number => Some(ParentKnownBy::from_u8(number).ok_or(DecodeError::Unknown)?),
        },
        reparented,
        forker_gone: this.forker_gone != 0,
        argv_bytes: this.argv_bytes,
        argv: record.slice(size_of::<ExecRecord>()..size_of::<ExecRecord>() + argv_len),
        forker: (this.forker != 0).then_some(forker),
        chain,
    })
}

/// A record without a tail.
fn whole<T: FromBytes>(record: &Bytes) -> Result<T, DecodeError> {
    T::read_from_bytes(record).map_err(|_| DecodeError::Size)
}

fn role(number: u32) -> Result<Role, DecodeError> {
    Role::from_u32(number).ok_or(DecodeError::Unknown)
}

fn task(info: &TaskInfo) -> Task {
    let comm = info.comm.iter().position(|&b| b == 0).unwrap_or(info.comm.len());
    Task {
        tgid: info.tgid,
        start_ns: info.start_ns,
        uid: info.uid,
        sid: info.sid,
        terminal: (info.terminal.index != NO_TERMINAL).then_some(info.terminal),
        comm: Bytes::copy_from_slice(&info.comm[..comm]),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use slashtrace_ebpf::{CLONES_MAX, SENT_BY_TASK, TerminalKey};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn header(kind: RecordKind, size: usize) -> Header {
        Header {
            version: WIRE_VERSION,
            kind: kind as u8,
            reserved: 0,
            size: size as u32,
            boottime_ns: 7,
        }
    }

    fn info(tgid: u32) -> TaskInfo {
        TaskInfo {
            tgid,
            start_ns: u64::from(tgid) * 1_000,
            terminal: TerminalKey { device: 3, index: 4 },
            comm: *b"python3\0\0\0\0\0\0\0\0\0",
            ..TaskInfo::NONE
        }
    }

    /// An exec record as the kernel program writes it.
    fn exec_record(argv: &[u8], chain: &[TaskInfo]) -> Vec<u8> {
        let size = size_of::<ExecRecord>() + argv_padded(argv.len()) + size_of_val(chain);
        let fixed = ExecRecord {
            header: header(RecordKind::Exec, size),
            task: info(50),
            role_before: 0,
            matched: 1,
            parent_known_by: ParentKnownBy::Fork as u8,
            reparented: 0,
            forker_gone: 0,
            argv_bytes: argv.len() as u64,
            forker_start_ns: 40_000,
            forker: 40,
            argv_len: argv.len() as u32,
            chain_len: chain.len() as u32,
            worker_before: 0,
            worker_before_start_ns: 0,
            above_start_ns: 0,
            above: 0,
            forked_only: 0,
        };
        let mut bytes = fixed.as_bytes().to_vec();
        bytes.extend(argv);
        bytes.resize(size_of::<ExecRecord>() + argv_padded(argv.len()), 0xaa);
        bytes.extend(chain.as_bytes());
        bytes
    }

    /// One valid record of each kind.
    pub(in crate::sensor::ebpf) fn records() -> Vec<Vec<u8>> {
        let fork = ForkRecord {
            header: header(RecordKind::Fork, size_of::<ForkRecord>()),
            child: info(1),
            parent_start_ns: 2,
            worker_start_ns: 3,
            parent: 4,
            worker: 5,
        };
        let exit = ExitRecord {
            header: header(RecordKind::Exit, size_of::<ExitRecord>()),
            start_ns: 1,
            reads: 2,
            tgid: 3,
            role: Role::Gateway as u32,
            status: 9,
            reserved: 0,
        };
        let signal = SignalRecord {
            header: header(RecordKind::Signal, size_of::<SignalRecord>()),
            start_ns: 1,
            tgid: 2,
            role: Role::Worker as u32,
            signal: 15,
            si_code: -6,
            result: 0,
            origin: SENT_BY_TASK,
            sender: info(9),
        };
        let terminal = TerminalRecord {
            header: header(RecordKind::Terminal, size_of::<TerminalRecord>()),
            closer: info(6),
            terminal: TerminalKey { device: 1, index: 2 },
        };
        let long = LongArgvRecord {
            header: header(RecordKind::LongArgv, size_of::<LongArgvRecord>()),
            start_ns: 1,
            forker_start_ns: 2,
            tgid: 3,
            forker: 4,
            parent_known_by: ParentKnownBy::Fork as u32,
            is_last: 1,
        };
        let made = |by| CloneInfo { at_ns: 1, replied_ns: 2, by, reserved: 0 };
        let forked = ThreadForkRecord {
            header: header(RecordKind::ThreadFork, size_of::<ThreadForkRecord>()),
            child_start_ns: 50_000,
            clones: [made(42), made(43), CloneInfo::NONE, CloneInfo::NONE],
            child: 50,
            tgid: 40,
            tid: 41,
            clones_len: 2,
        };
        let act = ThreadActRecord {
            header: header(RecordKind::ThreadAct, size_of::<ThreadActRecord>()),
            tgid: 40,
            tid: 41,
            act: ThreadAct::Sent as u32,
            port: 45_678,
        };
        vec![
            exec_record(b"python3\0-m\0worker\0", &[info(40), info(30)]),
            fork.as_bytes().to_vec(),
            exit.as_bytes().to_vec(),
            signal.as_bytes().to_vec(),
            terminal.as_bytes().to_vec(),
            long.as_bytes().to_vec(),
            forked.as_bytes().to_vec(),
            act.as_bytes().to_vec(),
        ]
    }

    #[test]
    fn a_fork_by_a_thread_carries_where_that_came_from() {
        let What::ThreadFork { child, tid, clones, .. } =
            decode(&records()[6].clone().into()).unwrap().what
        else {
            panic!("a fork by a thread");
        };
        assert_eq!((child, tid), ((50, 50_000), 41));
        assert_eq!(clones.iter().map(|made| made.by).collect::<Vec<_>>(), [42, 43]);
        let mut more = records()[6].clone();
        more[core::mem::offset_of!(ThreadForkRecord, clones_len)] = CLONES_MAX as u8 + 1;
        assert_eq!(decode(&more.into()), Err(DecodeError::Size));
    }

    #[test]
    fn a_signal_is_told_by_its_header() {
        for record in records().into_iter().map(Bytes::from) {
            let what = decode(&record).unwrap().what;
            assert_eq!(is_signal(&record), matches!(what, What::Signal { .. }), "{what:?}");
        }
        assert!(!is_signal(&Bytes::from_static(b"short")));
    }

    #[test]
    fn an_exec_carries_only_what_is_there() {
        let argv = b"python3\0-m\0worker\0";
        let decoded = decode(&exec_record(argv, &[info(40), info(30)]).into()).unwrap();
        let What::Exec(exec) = decoded.what else { panic!("{decoded:?}") };
        assert_eq!((decoded.boottime_ns, &exec.argv[..]), (7, &argv[..]));
        assert_eq!(exec.chain.iter().map(|task| task.tgid).collect::<Vec<_>>(), [40, 30]);
        let forker = exec.forker.unwrap();
        assert_eq!((forker.tgid, &forker.comm[..]), (40, &b"python3"[..]));

        let mut adopted = exec_record(argv, &[info(1)]);
        adopted[core::mem::offset_of!(ExecRecord, reparented)] = 1;
        let What::Exec(exec) = decode(&adopted.into()).unwrap().what else { panic!("an exec") };
        let forker = exec.forker.unwrap();
        assert_eq!((forker.tgid, forker.start_ns, forker.comm.len()), (40, 40_000, 0));
    }

    #[test]
    fn each_kind_is_decoded_and_no_other_length_of_it() {
        for record in records() {
            decode(&record.clone().into()).unwrap();
            for length in 0..record.len() + 16 {
                let mut other = record.clone();
                other.resize(length, 0);
                if length == record.len() {
                    continue;
                }
                assert_eq!(decode(&other.clone().into()), Err(DecodeError::Size), "{length}");
                // Also if the header says that it is as long as it is.
                if length >= size_of::<Header>() {
                    let at = core::mem::offset_of!(Header, size);
                    other[at..at + 4].copy_from_slice(&(length as u32).to_ne_bytes());
                    assert_eq!(decode(&other.into()), Err(DecodeError::Size), "{length}");
                }
            }
        }
    }

    #[test]
    fn what_this_version_does_not_know_is_an_error() {
        let change = |at: usize, value: u8| {
            let mut record = records().swap_remove(2);
            record[at] = value;
            decode(&record.into())
        };
        assert_eq!(change(0, WIRE_VERSION - 1), Err(DecodeError::Version(WIRE_VERSION - 1)));
        assert_eq!(change(1, 0), Err(DecodeError::Unknown));
        assert_eq!(change(1, 99), Err(DecodeError::Unknown));
        assert_eq!(change(core::mem::offset_of!(ExitRecord, role), 0), Err(DecodeError::Unknown));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            drop(decode(&bytes.into()));
        }

        /// Damaged where it hurts: a valid record with some bytes replaced.
        #[test]
        fn a_damaged_record_is_an_error_or_within_its_bounds(
            kind in 0..8_usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut record = records().swap_remove(kind);
            for (at, value) in damage {
                let at = at.index(record.len());
                record[at] = value;
            }
            let length = record.len();
            if let Ok(Event { what: What::Exec(exec), .. }) = decode(&record.into()) {
                prop_assert!(exec.argv.len() <= length && exec.chain.len() <= CHAIN_MAX);
            }
        }
    }
}
