//! Histories for tests, told as a person would: who spawned whom, who served, who ended, and how
//! much time passed. `driver` drives the engine.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::driver::{Driver, wall};
use crate::model::{
    Body, Clients, Connection, Exec, Exit, Finding, FindingState, Identity, Kind, ParentSource,
    Process, Role, Sample, Source, Spawn, StdinPeer, StdinState, TerminalEvent, TerminalState,
    testing::{self, spawn},
};
use crate::profile::Profile;

/// A second in ns.
pub(in crate::engine) const S: u64 = 1_000_000_000;
/// The session of most histories.
pub(in crate::engine) const K: &str = "K";

/// The pids that a finding names.
pub(in crate::engine) fn pids(finding: &Finding) -> Vec<u32> {
    finding.workers.iter().map(|worker| worker.pid).collect()
}

/// A history that is being told.
#[derive(Debug)]
pub(in crate::engine) struct History {
    pub(in crate::engine) driver: Driver,
    pub(in crate::engine) now: u64,
    starts: BTreeMap<u32, u64>,
    /// When each terminal was opened.
    terminals: BTreeMap<u32, u64>,
}

impl History {
    pub(in crate::engine) fn new() -> Self {
        Self {
            driver: Driver::new(),
            now: 10 * S,
            starts: BTreeMap::new(),
            terminals: BTreeMap::new(),
        }
    }

    /// One of workers of another profile.
    pub(in crate::engine) fn with_profile(text: &str) -> Self {
        let profile = Profile::parse(text).expect("a profile");
        Self { driver: Driver::of(&profile), ..Self::new() }
    }

    /// A gateway is killed, seen in the kernel.
    pub(in crate::engine) fn killed_gateway(&mut self, pid: u32) -> &mut Self {
        let exit = testing::exit(self.identity(pid));
        self.tell(Body::Exit(Exit { role: Role::Gateway, code: None, signal: Some(9), ..exit }))
    }

    /// Where the history begins.
    pub(in crate::engine) fn starting_at(mut self, now: u64) -> Self {
        self.now = now;
        self
    }

    /// The moment that it is, ns of the boot clock.
    pub(in crate::engine) fn now(&self) -> u64 {
        self.now
    }

    /// Time passes.
    pub(in crate::engine) fn after(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self.driver.pass(self.now, 100_000);
        self
    }

    pub(in crate::engine) fn tell(&mut self, body: Body) -> &mut Self {
        self.driver.feed(self.now, body);
        self
    }

    /// A gateway forks a worker of a session, seen in the kernel.
    pub(in crate::engine) fn spawn(&mut self, pid: u32, gateway: u32, session: &str) -> &mut Self {
        self.spawn_with(pid, gateway, |spawn| spawn.session = Some(session.to_owned()))
    }

    pub(in crate::engine) fn spawn_with(
        &mut self,
        pid: u32,
        gateway: u32,
        change: impl FnOnce(&mut Spawn),
    ) -> &mut Self {
        let start = if self.driver_knows(pid) { self.start_of(pid) } else { self.now };
        self.starts.insert(pid, start);
        let mut spawn = self.spawned(pid, gateway, Role::Worker);
        change(&mut spawn);
        self.tell(spawn.into())
    }

    /// A worker that was there before, with who has it now.
    pub(in crate::engine) fn inherited(
        &mut self,
        pid: u32,
        parent: u32,
        session: &str,
        start: u64,
    ) -> &mut Self {
        self.inherited_with(pid, parent, session, start, |_| {})
    }

    pub(in crate::engine) fn inherited_with(
        &mut self,
        pid: u32,
        parent: u32,
        session: &str,
        start: u64,
        change: impl FnOnce(&mut Spawn),
    ) -> &mut Self {
        self.starts.insert(pid, start);
        let mut spawn = self.spawned(pid, parent, Role::Worker);
        spawn.session = Some(session.to_owned());
        let mut spawn = spawn.inherited();
        change(&mut spawn);
        self.tell(spawn.into())
    }

    /// A worker that the poll sensor saw appear.
    pub(in crate::engine) fn polled(&mut self, pid: u32, parent: u32, session: &str) -> &mut Self {
        self.spawn_with(pid, parent, |spawn| {
            spawn.session = Some(session.to_owned());
            spawn.source = Source::Poll;
            spawn.parent.as_mut().expect("it has one").how = ParentSource::Proc;
        })
    }

    /// A process below a worker forks.
    pub(in crate::engine) fn child(&mut self, pid: u32, parent: u32, worker: u32) -> &mut Self {
        self.starts.insert(pid, self.now);
        let mut spawn = self.spawned(pid, parent, Role::Descendant);
        spawn.session = None;
        spawn.worker = Some(self.identity(worker));
        self.tell(spawn.into())
    }

    /// The same for a helper that the profile knows.
    pub(in crate::engine) fn helper(
        &mut self,
        pid: u32,
        parent: u32,
        worker: u32,
        name: &str,
    ) -> &mut Self {
        self.child(pid, parent, worker);
        let exec = testing::exec(self.identity(pid));
        self.tell(Body::Exec(Exec {
            role: Role::Descendant,
            is_worker: false,
            helper: Some(name.to_owned()),
            ..exec
        }))
    }

    pub(in crate::engine) fn exec(&mut self, pid: u32, is_worker: bool) -> &mut Self {
        let exec = testing::exec(self.identity(pid));
        self.tell(Body::Exec(Exec { is_worker, ..exec }))
    }

    /// A worker exits, seen in the kernel.
    pub(in crate::engine) fn exit(&mut self, pid: u32) -> &mut Self {
        self.exit_as(pid, Role::Worker, Source::Kernel)
    }

    pub(in crate::engine) fn exit_gateway(&mut self, pid: u32) -> &mut Self {
        self.exit_as(pid, Role::Gateway, Source::Kernel)
    }

    pub(in crate::engine) fn exit_as(&mut self, pid: u32, role: Role, source: Source) -> &mut Self {
        let exit = testing::exit(self.identity(pid));
        self.tell(Body::Exit(Exit { role, source, ..exit }))
    }

    /// A process sends a worker SIGTERM, and it exits by itself.
    pub(in crate::engine) fn terminated(&mut self, pid: u32, sender: u32) -> &mut Self {
        let (of, by) = (self.identity(pid), self.identity(sender));
        self.tell(Body::Signal(testing::signal(of, by, 15)));
        self.exit(pid)
    }

    /// A sample with the number of calls counted so far.
    pub(in crate::engine) fn reads(&mut self, pid: u32, reads: u64) -> &mut Self {
        self.sample(pid, |sample| sample.reads = Some(reads))
    }

    /// A sample with the process's read system calls so far.
    pub(in crate::engine) fn syscr(&mut self, pid: u32, syscr: u64) -> &mut Self {
        self.sample(pid, |sample| sample.syscr = Some(syscr))
    }

    pub(in crate::engine) fn rss(&mut self, pid: u32, kib: u64) -> &mut Self {
        self.sample(pid, |sample| sample.rss_kib = Some(kib))
    }

    pub(in crate::engine) fn state(&mut self, pid: u32, state: char) -> &mut Self {
        self.sample(pid, |sample| sample.state = state)
    }

    pub(in crate::engine) fn stdin(&mut self, pid: u32, state: StdinState) -> &mut Self {
        self.sample(pid, |sample| {
            sample.stdin = Some(StdinPeer { kind: None, state, holder: None });
        })
    }

    pub(in crate::engine) fn sample(
        &mut self,
        pid: u32,
        change: impl FnOnce(&mut Sample),
    ) -> &mut Self {
        let mut sample = testing::sample(self.identity(pid));
        change(&mut sample);
        self.tell(Body::Sample(sample))
    }

    /// A look at a gateway's sockets.
    pub(in crate::engine) fn clients(
        &mut self,
        pid: u32,
        listening: u32,
        connected: u32,
        complete: bool,
    ) -> &mut Self {
        self.clients_are(pid, listening, (0..u64::from(connected)).map(|id| (id, None)), complete)
    }

    /// The same, with when each connection was heard from.
    pub(in crate::engine) fn clients_are(
        &mut self,
        pid: u32,
        listening: u32,
        connections: impl IntoIterator<Item = (u64, Option<u64>)>,
        complete: bool,
    ) -> &mut Self {
        let connections: Vec<Connection> = connections
            .into_iter()
            .map(|(id, heard_ns)| Connection { id, since_ns: None, heard_ns, port: None })
            .collect();
        let connected = connections.len() as u32;
        self.look(pid, |look| {
            *look = Clients { listening, connected, connections, complete, ..look.clone() };
        })
    }

    /// The same, with when each connection was first seen: the kernel does not tell who spoke.
    pub(in crate::engine) fn clients_since(
        &mut self,
        pid: u32,
        connections: &[(u64, u64)],
    ) -> &mut Self {
        let since = |&(id, since)| {
            let (since_ns, heard_ns, port) = (Some(since), None, None);
            Connection { id, since_ns, heard_ns, port }
        };
        self.look(pid, |look| {
            look.connections = connections.iter().map(since).collect();
            look.connected = connections.len() as u32;
        })
    }

    /// A look at a gateway that listens.
    pub(in crate::engine) fn look(
        &mut self,
        pid: u32,
        change: impl FnOnce(&mut Clients),
    ) -> &mut Self {
        let mut clients = testing::clients(self.identity(pid));
        change(&mut clients);
        self.tell(Body::Clients(clients))
    }

    /// A gateway opens a terminal, whose process names a session.
    pub(in crate::engine) fn open_terminal(
        &mut self,
        index: u32,
        gateway: u32,
        session: Option<&str>,
    ) -> &mut Self {
        self.terminals.insert(index, self.now);
        let master = self.process(gateway);
        self.terminal(index, TerminalState::Opened, |event| {
            event.session = session.map(str::to_owned);
            event.master = Some(master);
        })
    }

    /// A process that is no worker.
    pub(in crate::engine) fn process(&self, pid: u32) -> Process {
        testing::process(self.identity(pid))
    }

    /// A terminal of a user's, whose process names a session, and whose master `gateway` holds.
    pub(in crate::engine) fn open_terminal_of_user(
        &mut self,
        index: u32,
        gateway: u32,
        uid: u32,
        session: &str,
    ) -> &mut Self {
        self.terminals.insert(index, self.now);
        let master = self.process(gateway);
        self.terminal(index, TerminalState::Opened, |event| {
            event.uid = Some(uid);
            event.master = Some(master);
            event.session = Some(session.to_owned());
        })
    }

    /// A terminal that no process opened which is known to have forked workers: a shell's.
    pub(in crate::engine) fn open_terminal_of_others(&mut self, index: u32) -> &mut Self {
        self.terminals.insert(index, self.now);
        self.terminal(index, TerminalState::Opened, |_| {})
    }

    /// The last descriptor of a terminal's master is closed, told by inotify.
    pub(in crate::engine) fn close_terminal(&mut self, index: u32) -> &mut Self {
        self.terminal(index, TerminalState::Closed, |_| {})
    }

    fn terminal(
        &mut self,
        index: u32,
        state: TerminalState,
        change: impl FnOnce(&mut TerminalEvent),
    ) -> &mut Self {
        let opened_ns = self.terminals.get(&index).copied().unwrap_or(self.now);
        let mut event = TerminalEvent { state, ..testing::terminal(index, opened_ns) };
        change(&mut event);
        self.tell(Body::Terminal(Box::new(event)))
    }

    pub(in crate::engine) fn tick_with_memory(&mut self, available_kib: u64) -> &mut Self {
        self.tell(testing::tick(Some(testing::memory(8 << 20, available_kib))))
    }

    /// The open finding of a kind; there must not be two.
    pub(in crate::engine) fn open(&self, kind: Kind) -> Option<&Finding> {
        let mut open = self.driver.open.values().filter(|finding| finding.kind == kind);
        let first = open.next();
        assert!(open.next().is_none(), "more than one {kind} is open");
        first
    }

    /// The same where there must be one.
    pub(in crate::engine) fn found(&self, kind: Kind) -> &Finding {
        self.open(kind).unwrap_or_else(|| panic!("no {kind} is open; said: {:?}", self.findings()))
    }

    /// What was said last of a kind.
    pub(in crate::engine) fn last(&self, kind: Kind) -> &Finding {
        self.driver.said.iter().rfind(|finding| finding.kind == kind).expect("none of that kind")
    }

    pub(in crate::engine) fn states(&self, kind: Kind) -> Vec<FindingState> {
        let of_kind = self.driver.said.iter().filter(|finding| finding.kind == kind);
        of_kind.map(|finding| finding.state).collect()
    }

    pub(in crate::engine) fn ever(&self, kind: Kind) -> bool {
        self.driver.said.iter().any(|finding| finding.kind == kind)
    }

    /// Whether nothing was found at all.
    pub(in crate::engine) fn silent(&self) -> bool {
        self.driver.said.is_empty()
    }

    pub(in crate::engine) fn findings(&self) -> &[Finding] {
        &self.driver.said
    }

    /// Wall-clock time of a moment of the boot clock.
    #[expect(clippy::unused_self, reason = "reads like the other questions to a history")]
    pub(in crate::engine) fn wall(&self, boottime_ns: u64) -> Timestamp {
        wall(boottime_ns)
    }

    fn driver_knows(&self, pid: u32) -> bool {
        self.starts.contains_key(&pid)
    }

    fn start_of(&self, pid: u32) -> u64 {
        self.starts.get(&pid).copied().unwrap_or(S + u64::from(pid))
    }

    fn identity(&self, pid: u32) -> Identity {
        Identity { pid, start_ns: self.start_of(pid) }
    }

    fn spawned(&mut self, pid: u32, parent: u32, role: Role) -> Spawn {
        self.starts.insert(parent, self.start_of(parent));
        let gateway = self.identity(parent);
        let mut spawn = spawn(self.identity(pid)).forked_by(gateway).session(K);
        let argv0 = &mut spawn.parent.as_mut().expect("it was just set").process.argv0;
        *argv0 = Some("/usr/bin/python3".to_owned());
        Spawn { role, uid: 1_000, ..spawn }
    }
}
