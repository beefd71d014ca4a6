//! For tests: records, and real processes that look like workers.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use super::Decision;
use crate::{
    host::proc::ProcFs,
    model::{
        Body, Confidence, Exit, Finding, Identity, Kind, Parent, ParentSource, Process, Record,
        Role, Source, Spawn, testing,
    },
};

/// Gives bodies their place.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    seq: u64,
}

impl Recorder {
    pub(super) fn record(&mut self, boottime_ns: u64, body: Body) -> Record {
        self.seq += 1;
        testing::record(self.seq, Timestamp::UNIX_EPOCH, boottime_ns, body)
    }
}

/// The gateway of [`spawn`] and [`finding`]: pid 1 a second after boot, which nothing is.
const GATEWAY: Identity = Identity { pid: 1, start_ns: 1_000_000_000 };

/// A spawn of session `k` and user 1000.
pub(super) fn spawn(id: Identity, role: Role) -> Spawn {
    Spawn { role, uid: 1_000, ..testing::spawn(id).forked_by(GATEWAY).session("k") }
}

/// A parent that is there, as the kernel tells of it.
pub(super) fn gateway_of(id: Identity) -> Parent {
    let Identity { pid, start_ns } = id;
    let process = Process { pid, start_ns, comm: "python".to_owned(), argv0: None, launcher: None };
    Parent {
        process,
        how: ParentSource::Fork,
        gone: false,
        reaper: false,
        forker: None,
        forked_only: false,
    }
}

/// That it ended.
pub(super) fn exit(id: Identity) -> Exit {
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

/// Who has a pid now.
pub(super) fn identity(pid: u32) -> Identity {
    let stat = ProcFs::default().stat(pid).unwrap().unwrap();
    Identity { pid, start_ns: stat.start_ns }
}

/// An opened finding, held strongly, that shows all of them to be unused.
pub(super) fn finding(kind: Kind, workers: &[Identity]) -> Finding {
    let mut finding = testing::finding(kind, workers.iter().copied());
    finding.workers.iter_mut().for_each(|worker| worker.unused = true);
    Finding { gateway: Some(testing::gateway_ref(GATEWAY)), text: "unused".to_owned(), ..finding }
}

/// What a worker does until it is ended.
pub(super) const LOOP: &str = "while :; do sleep 0.05; done";

/// A process that the test started, and ends.
#[derive(Debug)]
pub(super) struct Subject {
    child: Child,
    /// A pid that it said it forked.
    pub(super) inner: Option<u32>,
}

impl Subject {
    /// A shell that runs `script` and has a worker's arguments.
    pub(super) fn worker(script: &str) -> Self {
        Self::worker_with(script, &[], Stdio::null())
    }

    pub(super) fn worker_with(script: &str, more: &[&str], stdin: impl Into<Stdio>) -> Self {
        let rule = ["-m", "tui_gateway.slash_worker", "--session-key", "k"];
        Self::start(Command::new("/bin/sh").args(["-c", script]).args(rule).args(more), stdin)
    }

    /// Starts it and waits for its first line: it stands where its script says `echo`.
    pub(super) fn start(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, inner: line.trim().parse().ok() }
    }

    pub(super) fn id(&self) -> Identity {
        identity(self.child.id())
    }

    pub(super) fn uid(&self) -> u32 {
        ProcFs::default().ids(self.child.id()).unwrap().unwrap().uid
    }

    pub(super) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it and has it reaped: its pid is free.
    pub(super) fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub(super) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether its arguments have this token.
    pub(super) fn has_token(&self, token: &str) -> bool {
        let cmdline = ProcFs::default().cmdline(self.child.id(), 4096).unwrap().unwrap();
        cmdline.tokens().contains(&token.as_bytes())
    }

    /// A decision about it: its terminal closed.
    pub(super) fn decision(&self) -> Decision {
        Decision {
            worker: self.id(),
            gateway: None,
            uid: self.uid(),
            session: Some("k".to_owned()),
            argv_truncated: false,
            finding: "terminal-orphan:1".to_owned(),
            kind: Kind::TerminalOrphan,
            confidence: Confidence::Strong,
            terminal: None,
            seen_exec: false,
            syscr: None,
            output_unread: false,
            other_clients: BTreeSet::new(),
            ways: "its stdin: nobody".to_owned(),
            seq: 5,
            descendants: Vec::new(),
            gateway_of: Vec::new(),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // As long as its parent has not reaped it, that pid is its own.
        if let Some(inner) = self.inner.and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(inner, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub(super) fn wait_until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came to hold");
        sleep(Duration::from_millis(5));
    }
}
