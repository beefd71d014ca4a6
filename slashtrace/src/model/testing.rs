//! Records for tests, each type made in this one place: `spawn(id)` is the plainest spawn that there
//! is, and a test says only what is different in its own: `Spawn { uid: 7, ..spawn(id) }`, or one of
//! the methods that read as the sentence does: `spawn(id).forked_by(gateway).session("K").inherited()`.
//!
//! Defaults: a worker in Python of user 0, seen in the kernel, with no parent, session or terminal.

use jiff::{SignedDuration, Timestamp};

use super::{
    Body, Clients, Confidence, Exec, Exit, FORMAT_VERSION, Finding, FindingState, FindingWorker,
    GatewayRef, Host, Identity, Kind, Limits, Memory, Parent, ParentSource, Process, Record, Role,
    Sample, Sender, SensorKind, Signal, Source, Spawn, Start, TerminalEvent, TerminalState, Tick,
};
use crate::profile::Profile;

/// An identity.
pub(crate) const fn id(pid: u32, start_ns: u64) -> Identity {
    Identity { pid, start_ns }
}

/// The wall-clock time of a moment of the boot clock on a machine that booted at this time.
///
/// # Panics
/// If `booted` is no time.
pub(crate) fn time_since(booted: &str, boottime_ns: u64) -> Timestamp {
    let booted: Timestamp = booted.parse().expect("a time");
    booted + SignedDuration::from_nanos(boottime_ns as i64)
}

/// A record with a place.
pub(crate) fn record(seq: u64, time: Timestamp, boottime_ns: u64, body: Body) -> Record {
    Record { v: FORMAT_VERSION, seq, time, boottime_ns, body }
}

/// A process that is no worker.
pub(crate) fn process(id: Identity) -> Process {
    Process {
        pid: id.pid,
        start_ns: id.start_ns,
        comm: "python".to_owned(),
        argv0: None,
        launcher: None,
    }
}

/// Who forked somebody, and still is there.
pub(crate) fn parent(id: Identity, how: ParentSource) -> Parent {
    Parent {
        process: process(id),
        how,
        gone: false,
        reaper: false,
        forker: None,
        forked_only: false,
    }
}

/// A worker.
pub(crate) fn spawn(id: Identity) -> Spawn {
    Spawn {
        role: Role::Worker,
        pid: id.pid,
        start_ns: id.start_ns,
        source: Source::Kernel,
        inherited: false,
        parent: None,
        ancestors: Vec::new(),
        opener: None,
        worker: None,
        comm: "python".to_owned(),
        uid: 0,
        sid: 0,
        argv: Vec::new(),
        argv_bytes: 0,
        argv_truncated: false,
        session: None,
        model: None,
        terminal: None,
        helper: None,
        thread: None,
        rule: None,
    }
}

impl Spawn {
    /// Forked by this process, as the kernel saw it.
    pub(crate) fn forked_by(mut self, gateway: Identity) -> Self {
        self.parent = Some(parent(gateway, ParentSource::Fork));
        self
    }

    /// Of this session.
    pub(crate) fn session(mut self, session: &str) -> Self {
        self.session = Some(session.to_owned());
        self
    }

    /// Below this worker, and none itself.
    pub(crate) fn below(mut self, worker: Identity) -> Self {
        (self.role, self.worker) = (Role::Descendant, Some(worker));
        self
    }

    /// It was there before: /proc tells of it, and who has it now.
    pub(crate) fn inherited(mut self) -> Self {
        (self.source, self.inherited) = (Source::Proc, true);
        self.parent.iter_mut().for_each(|parent| parent.how = ParentSource::Proc);
        self
    }
}

impl From<Spawn> for Body {
    fn from(spawn: Spawn) -> Self {
        Self::Spawn(Box::new(spawn))
    }
}

/// A worker that executes itself again.
pub(crate) fn exec(id: Identity) -> Exec {
    Exec {
        pid: id.pid,
        start_ns: id.start_ns,
        role: Role::Worker,
        is_worker: true,
        comm: "python".to_owned(),
        argv0: None,
        helper: None,
        source: Source::Kernel,
    }
}

/// The exit of a worker, with code 0.
pub(crate) fn exit(id: Identity) -> Exit {
    Exit {
        pid: id.pid,
        start_ns: id.start_ns,
        role: Role::Worker,
        code: Some(0),
        signal: None,
        reads: None,
        source: Source::Kernel,
    }
}

/// A signal that one process sent to a worker.
pub(crate) fn signal(to: Identity, by: Identity, number: u8) -> Signal {
    Signal {
        pid: to.pid,
        start_ns: to.start_ns,
        role: Role::Worker,
        signal: number,
        name: super::signal_name(number).into_owned(),
        si_code: 0,
        parent_ended: false,
        count: None,
        first_ns: None,
        last_ns: None,
        delivered: true,
        sender: Some(Sender {
            pid: by.pid,
            start_ns: by.start_ns,
            comm: "python".to_owned(),
            uid: 0,
        }),
    }
}

/// A look at a process that sleeps, at which nothing else was to be seen.
pub(crate) fn sample(id: Identity) -> Sample {
    Sample {
        pid: id.pid,
        start_ns: id.start_ns,
        state: 'S',
        rss_kib: None,
        launchers_rss_kib: None,
        pss_kib: None,
        threads: None,
        syscr: None,
        reads: None,
        stdin: None,
        output: None,
        sockets: None,
        waits: false,
        over_budget: false,
        cpu_ms: None,
        syscr_below: None,
    }
}

/// A whole look at a gateway that listens and has no client.
pub(crate) fn clients(id: Identity) -> Clients {
    Clients {
        pid: id.pid,
        start_ns: id.start_ns,
        listening: 1,
        connected: 0,
        connections: Vec::new(),
        outbound: 0,
        complete: true,
        source: Source::Proc,
    }
}

/// A terminal of devpts 7 that was opened, and nobody is known to hold.
pub(crate) fn terminal(index: u32, opened_ns: u64) -> TerminalEvent {
    TerminalEvent {
        instance: 7,
        index,
        opened_ns,
        state: TerminalState::Opened,
        source: Source::Inotify,
        uid: None,
        master: None,
        leader: None,
        processes: Vec::new(),
        session: None,
        session_ns: None,
        resumes: None,
        ports: Vec::new(),
        closer: None,
    }
}

/// A machine without swap.
pub(crate) const fn memory(total_kib: u64, available_kib: u64) -> Memory {
    Memory { total_kib, available_kib, swap_total_kib: 0, swap_free_kib: 0 }
}

/// Time that passes.
pub(crate) const fn tick(memory: Option<Memory>) -> Body {
    Body::Tick(Tick { memory })
}

/// A gateway, as findings name it.
pub(crate) fn gateway_ref(id: Identity) -> GatewayRef {
    GatewayRef {
        pid: id.pid,
        start_ns: id.start_ns,
        comm: "python".to_owned(),
        argv0: None,
        how: ParentSource::Fork,
    }
}

/// A worker, as findings name it, of which nothing is known.
pub(crate) fn finding_worker(id: Identity) -> FindingWorker {
    FindingWorker {
        pid: id.pid,
        start_ns: id.start_ns,
        spawned_at: Timestamp::UNIX_EPOCH,
        rss_kib: None,
        reads: None,
        unused: false,
    }
}

/// A finding that was opened, held strongly, about no gateway or session.
pub(crate) fn finding(kind: Kind, workers: impl IntoIterator<Item = Identity>) -> Finding {
    Finding {
        id: format!("{kind}:1"),
        kind,
        state: FindingState::Opened,
        confidence: Confidence::Strong,
        gateway: None,
        session: None,
        workers: workers.into_iter().map(finding_worker).collect(),
        processes: Vec::new(),
        processes_total: None,
        terminal: None,
        forecast: None,
        because: vec![1],
        text: format!("{kind} was seen"),
    }
}

/// The start of a recording with kernel programs and the built-in profile.
pub(crate) fn start() -> Start {
    Start {
        version: "0.1.0".to_owned(),
        host: Host {
            distribution: None,
            kernel: "6.18.0".to_owned(),
            arch: "x86_64".to_owned(),
            cpus: 2,
            memory: memory(1, 1),
        },
        sensor: SensorKind::Ebpf,
        capabilities: Vec::new(),
        calls_counted: true,
        profile: Profile::hermes(),
        reaping: None,
        commit: None,
        continued: false,
        resumed: false,
        boot_id: None,
        pseudonyms: None,
        limits: Limits {
            argv_searched_bytes: 4096,
            ring_bytes: 1 << 20,
            tracked_max: 1024,
            sample_interval_ms: 2000,
        },
    }
}
