//! What surrounds the processes that a sensor set sees: terminals, gateways' programs and clients,
//! samples. One object and one order for every sensor set, which itself only says what was spawned,
//! executed, signalled and ended.
//! May touch: what `terminal`, `clients`, `program` and `sampler` may. Never the clock: it is given
//! the time.
//!
//! The order of one observation's records: the terminals that a worker may belong to, its gateway's
//! program, the observation itself, the gateway's clients.

use std::collections::VecDeque;

use super::{
    Before,
    clients::ClientsWatch,
    join::{FlatGateway, Replies, replies::Act},
    program::ProgramWatch,
    sampler::{Reads, Sampler},
    terminal::{Place, TerminalWatch},
};
use crate::{
    host::proc::{IdentityBook, ProcFs},
    model::{Body, Capability, Identity, Observation, Process, Role, USE_CAPABILITY},
    profile::{Channel, Profile, WorkerRule},
};

/// Ended processes whose identities are remembered: records that name them may be on their way.
const ENDED_MAX: usize = 4_096;

/// Watches what surrounds tracked processes.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The identity that each process has in this recording.
    pub(super) book: IdentityBook,
    terminals: TerminalWatch,
    programs: ProgramWatch,
    clients: ClientsWatch,
    replies: Replies,
    sampler: Sampler,
    ended: VecDeque<Identity>,
}

impl Surroundings {
    /// Tracks nothing yet. Without a tokio runtime it has no inotify.
    pub(super) fn start(proc: &ProcFs, profile: &Profile, before: &Before) -> Self {
        let mut sampler = Sampler::new(proc.clone());
        // Workers that are asked by their stdin alone have no sockets to be asked by.
        let asked = |rule: &WorkerRule| rule.channel() != Some(Channel::Stdin);
        if profile.workers.iter().any(asked) {
            sampler = sampler.with_sockets();
        }
        before.zombies.iter().for_each(|id| sampler.was_zombie(*id));
        let mut book = IdentityBook::new(proc.tick_ns());
        for (id, _) in &before.processes {
            // One that has more than whole ticks was named by the kernel.
            if id.start_ns.is_multiple_of(proc.tick_ns()) {
                book.proc(id.pid, id.start_ns);
            } else {
                book.kernel(id.pid, id.start_ns);
            }
        }
        let rule = profile.terminal.clone();
        Self {
            book,
            terminals: TerminalWatch::start(proc.clone(), rule, &before.terminals),
            programs: ProgramWatch::new(proc.clone(), profile),
            clients: ClientsWatch::new(proc.clone()),
            replies: Replies::default(),
            sampler,
            ended: VecDeque::new(),
        }
    }

    /// How gateways' clients are seen here.
    pub(super) fn clients_capability(&self) -> Capability {
        self.clients.capability()
    }

    /// That every way in which workers are used is looked at.
    pub(super) fn use_capability() -> Capability {
        Capability {
            name: USE_CAPABILITY.to_owned(),
            ok: true,
            detail: "stdin, output, sockets and work of each worker and what descends from it"
                .to_owned(),
        }
    }

    /// How terminals are seen here.
    pub(super) fn terminal_capability(&self) -> Capability {
        self.terminals.capability()
    }

    /// Reads what may be gone in a moment, the terminal of a worker above all, and tracks the
    /// process. Every observation of a batch passes here before [`Self::complete`] reads the rest.
    pub(super) fn observe(&mut self, mut observation: Observation, batch: &mut Vec<Observation>) {
        match &mut observation.body {
            Body::Spawn(spawn) => {
                let found = self.terminals.spawned(spawn, observation.boottime_ns);
                if let Some(opener) = &mut spawn.opener {
                    self.book.name(opener);
                }
                batch.extend(self.named(found));
                self.replies.spawned(spawn);
                let above = match spawn.role {
                    // A reaper that adopted it holds no pipe to it.
                    Role::Worker => spawn.parent.as_ref().filter(|parent| !parent.reaper),
                    _ => None,
                };
                let above = above.map(|parent| parent.process.identity()).or(spawn.worker);
                self.sampler.track(spawn.identity(), spawn.role, above);
                self.sampler.launched(spawn);
                if spawn.role == Role::Worker && !spawn.inherited {
                    self.sampler.spawned(spawn.identity(), observation.boottime_ns);
                }
            }
            Body::Exit(exit) => {
                self.sampler.exited(exit.identity());
                self.ended.push_back(exit.identity());
                if self.ended.len() > ENDED_MAX
                    && let Some(oldest) = self.ended.pop_front()
                {
                    self.book.forget(oldest);
                }
            }
            _ => {}
        }
        batch.push(observation);
    }

    /// Whether the end of a process was observed, not too long ago.
    pub(super) fn has_ended(&self, id: Identity) -> bool {
        self.ended.contains(&id)
    }

    /// Reads of a batch what can wait: the programs and clients of gateways.
    pub(super) fn complete(
        &mut self,
        batch: impl IntoIterator<Item = Observation>,
        now_ns: u64,
        into: &mut impl Extend<Observation>,
    ) {
        for observation in batch {
            self.clients.see(&observation.body);
            let mut clients = None;
            if let Body::Spawn(spawn) = &observation.body {
                into.extend(self.programs.spawned(spawn, observation.boottime_ns));
                clients = self.clients.spawned(spawn, now_ns);
            }
            into.extend([observation]);
            into.extend(clients);
        }
    }

    /// One round of samples. `reads` gives the counted reads of a worker's stdin.
    pub(super) fn sample(&mut self, now_ns: u64, reads: Reads<'_>, into: &mut Vec<Observation>) {
        // A worker that vanished is told of by a record that is on its way, by the next reading of
        // /proc, or by the resync after a loss.
        into.extend(self.sampler.sample(now_ns, &mut self.book, reads).observations);
    }

    /// When [`Self::first_look`] is to be called, ns of the boot clock.
    pub(super) fn first_look_due_ns(&self) -> Option<u64> {
        self.sampler.first_look_due_ns()
    }

    /// Looks at the channels of workers that were spawned a moment ago, if that is due.
    pub(super) fn first_look(&mut self, now_ns: u64, into: &mut Vec<Observation>) {
        into.extend(self.sampler.first_look(now_ns, &mut self.book));
    }

    /// Looks again at clients and terminals.
    pub(super) fn refresh(&mut self, now_ns: u64, into: &mut Vec<Observation>) {
        into.extend(self.clients.round(now_ns));
        self.replies.pass(now_ns, into);
        let found = self.terminals.round();
        into.extend(self.named(found));
    }

    /// Waits until inotify has something. Cancel-safe: it reads nothing.
    pub(super) async fn readable(&self) {
        self.terminals.readable().await;
    }

    /// Reads what inotify has, and holds it for [`Self::apply_terminals`].
    pub(super) fn read_terminals(&mut self) {
        self.terminals.read();
    }

    /// Makes observations of what inotify had.
    pub(super) fn apply_terminals(&mut self, into: &mut Vec<Observation>) {
        let found = self.terminals.apply();
        into.extend(self.named(found));
    }

    /// A kernel program saw the master of a terminal closed, and by whom.
    pub(super) fn terminal_closed(
        &mut self,
        place: Place,
        at_ns: u64,
        closer: Process,
        into: &mut Vec<Observation>,
    ) {
        let found = self.terminals.closed(place, at_ns, closer);
        into.extend(self.named(found));
    }

    /// The terminals whose ends are to be observed since the last time, and those that are not any
    /// more.
    pub(super) fn terminal_changes(&mut self) -> Vec<(bool, Place)> {
        self.terminals.take_changes()
    }

    /// The gateways that serve several terminals since the last time, and those that do no more.
    pub(super) fn gateway_changes(&mut self) -> Vec<(bool, FlatGateway)> {
        self.terminals.take_gateways()
    }

    /// A thread of a gateway that serves several terminals forked a child.
    pub(super) fn thread_forked(&mut self, gateway: u32, tid: u32, child: Identity) {
        self.replies.forked(gateway, tid, child);
    }

    /// A gateway that serves several terminals did something, at `at_ns` of the boot clock.
    pub(super) fn gateway_acted(
        &mut self,
        gateway: u32,
        at_ns: u64,
        act: Act,
        into: &mut Vec<Observation>,
    ) {
        self.replies.acted(gateway, at_ns, act, into);
    }

    /// Observations of terminals with the processes by the identities that they have in this
    /// recording: /proc rounds their starts.
    fn named(&mut self, mut found: Vec<Observation>) -> Vec<Observation> {
        for observation in &mut found {
            let Body::Terminal(event) = &mut observation.body else { continue };
            for process in [&mut event.master, &mut event.leader].into_iter().flatten() {
                self.book.name(process);
            }
            for id in &mut event.processes {
                *id = self.book.proc(id.pid, id.start_ns);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples,
        host::proc::fake::{Fake, FakeProc},
        model::{Exit, Source},
    };

    fn observation(body: Body) -> Observation {
        Observation { boottime_ns: 1, body }
    }

    fn names(observations: &[Observation]) -> Vec<&'static str> {
        let name = |observation: &Observation| match &observation.body {
            Body::Program(_) => "program",
            Body::Spawn(_) => "spawn",
            Body::Exit(_) => "exit",
            Body::Clients(_) => "clients",
            _ => "other",
        };
        observations.iter().map(name).collect()
    }

    #[test]
    fn a_gateway_s_program_precedes_its_first_worker_and_no_other() {
        let fake = FakeProc::new();
        let mut spawn = samples::spawn();
        let parent = spawn.parent.as_mut().unwrap();
        fake.put(&Fake { pid: parent.process.pid, ..Fake::default() });
        parent.process.start_ns = fake.proc().stat(parent.process.pid).unwrap().unwrap().start_ns;
        let mut surroundings =
            Surroundings::start(&fake.proc(), &Profile::hermes(), &Before::default());
        let mut batch = Vec::new();
        for pid in [20, 21] {
            spawn.pid = pid;
            surroundings.observe(observation(Body::Spawn(Box::new(spawn.clone()))), &mut batch);
        }
        // What may be gone is read for all before anything else is.
        assert_eq!(names(&batch), ["spawn", "spawn"]);
        let mut completed = Vec::new();
        surroundings.complete(batch, 2, &mut completed);
        assert_eq!(names(&completed), ["program", "spawn", "spawn"]);
    }

    #[test]
    fn identities_of_the_ended_are_forgotten_in_time() {
        let fake = FakeProc::new();
        let mut surroundings =
            Surroundings::start(&fake.proc(), &Profile::hermes(), &Before::default());
        let mut batch = Vec::new();
        for pid in 1..=20_000 {
            let id = surroundings.book.kernel(pid, 7);
            let exit = Exit {
                pid: id.pid,
                start_ns: id.start_ns,
                role: Role::Worker,
                code: Some(0),
                signal: None,
                reads: None,
                source: Source::Kernel,
            };
            surroundings.observe(observation(Body::Exit(exit)), &mut batch);
            batch.clear();
        }
        assert_eq!(surroundings.book.len(), ENDED_MAX);
    }
}
