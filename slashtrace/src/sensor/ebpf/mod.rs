//! The eBPF sensor set: kernel programs that see workers born, signalled and gone; the /proc
//! snapshot at the start; samples of what is tracked.
//!
//! `btf` finds kernel fields, `object` loads and attaches the programs, `optional` the hooks that a
//! kernel may not offer, `rule` turns a profile into the kernel's filter, `wire` decodes records,
//! `translate` makes observations of them, `loss` reconciles counters.

mod btf;
mod loss;
mod marks;
mod object;
mod optional;
mod rule;
mod translate;
mod wire;

use std::{mem, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use slashtrace_ebpf::{ARGV_MAX, RING_BYTES, TRACKED_MAX, Tracked};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::{
    loss::{Counts, Ledger},
    object::Object,
    optional::TerminalHook,
    rule::Rule,
    translate::{Translator, wire_role},
};
use super::{
    Description, Last, Options,
    clients::ClientsWatch,
    program::ProgramWatch,
    sampler::Sampler,
    terminal::{self, TerminalWatch},
};
use crate::{
    host::{
        clock::boottime_ns,
        proc::{self, ProcFs},
    },
    model::{
        Body, Capability, Exit, Gap, GapReason, Identity, Limits, Observation, ParentSource, Role,
        SensorKind, Source, Spawn,
    },
    next_step::NextStep as _,
    profile::Profile,
};

/// How often /proc is searched for workers whose tokens stand behind more arguments than the
/// kernel programs search, if there were such arguments at all.
const LONG_ARGV_SEARCH: Duration = Duration::from_mins(1);

/// The eBPF sensor set.
#[derive(Debug)]
pub struct EbpfSensor {
    object: Object,
    translator: Translator,
    ledger: Ledger,
    sampler: Sampler,
    clients: ClientsWatch,
    terminals: TerminalWatch,
    programs: ProgramWatch,
    profile: Profile,
    proc: ProcFs,
    interval: Interval,
    count_calls: bool,
    /// Observations that nobody has taken yet.
    pending: Vec<Observation>,
    long_argv_searched_ns: u64,
}

impl EbpfSensor {
    /// Loads and attaches the kernel programs, then looks at what was there before them.
    ///
    /// # Errors
    /// Without BTF, without the privilege, or if the kernel refuses a program.
    pub fn start(options: &Options) -> Result<Self> {
        check_pid_namespace()?;
        let object = Object::load(
            &Rule::new(&options.profile),
            options.count_calls,
            options.terminal_hook,
            options.kernel_log,
        )?;
        let proc = ProcFs::new("/proc");
        let mut interval = interval(options.sample_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sensor = Self {
            object,
            translator: Translator::new(options.profile.clone(), proc.clone(), options.count_calls),
            ledger: Ledger::default(),
            sampler: Sampler::new(proc.clone()),
            clients: ClientsWatch::new(proc.clone()),
            programs: ProgramWatch::new(proc.clone(), &options.profile),
            terminals: TerminalWatch::start(proc.clone(), options.profile.terminal.clone()),
            profile: options.profile.clone(),
            proc,
            interval,
            count_calls: options.count_calls,
            pending: Vec::new(),
            long_argv_searched_ns: boottime_ns(),
        };
        sensor.look_at_what_is_there()?;
        Ok(sensor)
    }

    /// What it can do here.
    pub fn describe(&self) -> Description {
        let capability =
            |name: &str, detail: String| Capability { name: name.to_owned(), ok: true, detail };
        let hooks = object::hooks().map(|hook| capability(hook, "BTF tracepoint".to_owned()));
        let calls = self.object.call_hook.iter();
        let calls = calls.map(|hook| capability(optional::COUNT_CALLS, hook.describe()));
        Description {
            kind: SensorKind::Ebpf,
            capabilities: hooks
                .chain(calls)
                .chain([self.clients.capability(), self.terminal_capability()])
                .collect(),
            calls_counted: self.count_calls,
            limits: Limits {
                argv_searched_bytes: ARGV_MAX as u32,
                ring_bytes: RING_BYTES,
                tracked_max: TRACKED_MAX,
                sample_interval_ms: self.interval.period().as_millis() as u64,
            },
        }
    }

    fn terminal_capability(&self) -> Capability {
        let inotify = self.terminals.capability();
        let hook = self.object.terminal_hook.describe();
        match (&self.object.terminal_hook, inotify.ok) {
            (TerminalHook::Inotify { .. }, _) | (_, false) => inotify,
            _ => Capability { detail: format!("{hook}; {}", inotify.detail), ..inotify },
        }
    }

    /// Waits for the next observations. Cancel-safe: what was taken from the kernel is kept until
    /// it is returned.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        loop {
            if !self.pending.is_empty() {
                return Ok(mem::take(&mut self.pending));
            }
            tokio::select! {
                ready = self.object.events.readable_mut() => {
                    let mut ready = ready.context("cannot wait for the ring buffer")?;
                    // The close of a terminal comes with signals to who was on it.
                    self.terminals.read();
                    let mut records = Vec::new();
                    while let Some(record) = ready.get_inner_mut().next() {
                        records.push(Bytes::copy_from_slice(&record));
                    }
                    ready.clear_ready();
                    self.take(records);
                    self.apply_terminals();
                }
                () = self.terminals.readable() => {
                    // The kernel program told of a close before its node was removed, and knows
                    // who closed it.
                    self.terminals.read();
                    self.drain();
                    self.apply_terminals();
                }
                _ = self.interval.tick() => self.round()?,
            }
        }
    }

    /// Detaches, and hands over what is left.
    pub fn finish(mut self) -> Result<Last> {
        self.reconcile()?;
        let found = self.terminals.take();
        self.tell(found);
        Ok(Last {
            observations: mem::take(&mut self.pending),
            counters: self.ledger.by_name(),
            complete: self.ledger.complete(),
        })
    }

    /// Decodes records and keeps what they say.
    fn take(&mut self, records: Vec<Bytes>) {
        for record in records {
            let event = wire::decode(record);
            self.ledger.read(event.is_ok());
            let Ok(event) = event else { continue };
            if let wire::What::Terminal { device, index, closer } = &event.what {
                let closer = self.translator.describe(closer);
                let place = (terminal::instance_of(*device), *index);
                let found = self.terminals.closed(place, event.boottime_ns, closer);
                self.tell(found);
                continue;
            }
            let pid = match &event.what {
                wire::What::Exec(exec) => exec.task.tgid,
                _ => 0,
            };
            match self.translator.translate(event) {
                Some(observation) => {
                    self.untrack_dead_forker(&observation.body);
                    self.keep(observation);
                }
                // Tracked for a collision of hashes only.
                None => drop(self.object.untrack(pid)),
            }
        }
    }

    /// The kernel cannot ask whether the forker of a sibling (`CLONE_PARENT`) lives, and tracks it.
    /// Who is a zombie or gone has passed the exit program, and has an entry for ever.
    fn untrack_dead_forker(&mut self, body: &Body) {
        if let Body::Spawn(spawn) = body
            && let Some(parent) = spawn.parent.as_ref().filter(|parent| parent.gone)
            && !self.is_alive(parent.process.identity())
        {
            self.object.untrack_process(parent.process.identity());
        }
    }

    fn keep(&mut self, mut observation: Observation) {
        self.clients.see(&observation.body);
        let mut clients = None;
        match &mut observation.body {
            Body::Spawn(spawn) => {
                let found = self.terminals.spawned(spawn, observation.boottime_ns);
                if let Some(opener) = &mut spawn.opener {
                    self.translator.book.name(opener);
                }
                self.tell(found);
                self.hand_over_terminals();
                clients = self.clients.spawned(spawn, boottime_ns());
                self.pending.extend(self.programs.spawned(spawn, observation.boottime_ns));
                let above = match spawn.role {
                    Role::Worker => spawn.parent.as_ref().map(|parent| parent.process.identity()),
                    _ => spawn.worker,
                };
                self.sampler.track(spawn.identity(), spawn.role, above);
            }
            Body::Exit(exit) => self.sampler.exited(exit.identity()),
            _ => {}
        }
        self.pending.push(observation);
        self.pending.extend(clients);
    }

    /// Keeps what is told of terminals, with the processes by the identities that they have in this
    /// recording: /proc rounds their starts.
    fn tell(&mut self, mut found: Vec<Observation>) {
        let book = &mut self.translator.book;
        for observation in &mut found {
            let Body::Terminal(event) = &mut observation.body else { continue };
            for process in [&mut event.master, &mut event.leader].into_iter().flatten() {
                book.name(process);
            }
            for id in &mut event.processes {
                *id = book.proc(id.pid, id.start_ns);
            }
        }
        self.pending.extend(found);
    }

    /// Tells what inotify told.
    fn apply_terminals(&mut self) {
        let found = self.terminals.apply();
        self.tell(found);
        self.hand_over_terminals();
    }

    /// Tells the kernel programs whose ends are to be told.
    fn hand_over_terminals(&mut self) {
        for (watch, place) in self.terminals.take_changes() {
            let terminal = terminal::key_of(place);
            if watch {
                self.object.watch_terminal(terminal);
            } else {
                self.object.forget_terminal(terminal);
            }
        }
    }

    fn drain(&mut self) {
        let mut records = Vec::new();
        while let Some(record) = self.object.next_record() {
            records.push(record);
        }
        self.take(records);
    }

    /// One round of samples, and the books.
    fn round(&mut self) -> Result<()> {
        if let Some(log) = &mut self.object.log {
            log.flush();
        }
        self.reconcile()?;
        let counts = self.count_calls;
        let object = &self.object;
        let reads = |identity: Identity| {
            counts.then(|| object.tracked(identity.pid)).flatten().map(|tracked| tracked.reads)
        };
        let round = self.sampler.sample(boottime_ns(), &mut self.translator.book, &reads);
        self.pending.extend(round.observations);
        self.pending.extend(self.clients.round(boottime_ns()));
        let found = self.terminals.round();
        self.tell(found);
        self.hand_over_terminals();
        // The kernel programs tell of every end: a worker that vanished is told of by a record
        // that is on its way, or was lost, which the next reconciliation shows.
        Ok(())
    }

    fn reconcile(&mut self) -> Result<()> {
        let counts = Counts {
            counters: self.object.counters()?,
            missed_runs: self.object.missed_runs(),
            tracked: self.object.tracked_total(),
        };
        self.drain();
        let gaps = self.ledger.reconcile(counts);
        let now = boottime_ns();
        if !gaps.is_empty() {
            self.pending.extend(
                gaps.into_iter().map(|gap| Observation { boottime_ns: now, body: Body::Gap(gap) }),
            );
            self.resync()?;
        }
        if now.saturating_sub(self.long_argv_searched_ns) >= LONG_ARGV_SEARCH.as_nanos() as u64 {
            self.long_argv_searched_ns = now;
            self.sweep();
            if self.ledger.take_not_searched() > 0 {
                self.search_long_argv()?;
            }
        }
        Ok(())
    }

    /// What was there before the programs: workers, what is below and above them.
    fn look_at_what_is_there(&mut self) -> Result<()> {
        let found = proc::snapshot(&self.proc, &self.profile, &mut self.translator.book)
            .context("cannot read /proc")?;
        // What the kernel saw meanwhile comes first; of a worker seen twice, it knows more.
        self.drain();
        for spawn in found {
            self.adopt(spawn)?;
        }
        Ok(())
    }

    /// After loss: compares what is known with what is there.
    fn resync(&mut self) -> Result<()> {
        let known: Vec<(Identity, Role)> =
            self.translator.known.iter().map(|(identity, role)| (*identity, *role)).collect();
        let found = proc::resync(&self.proc, &self.profile, &mut self.translator.book, &known)
            .context("cannot read /proc")?;
        for exit in found.exits {
            self.exited(exit);
        }
        for spawn in found.spawns {
            self.adopt(spawn)?;
        }
        Ok(())
    }

    /// Has the kernel forget who ended without its noticing, and reports their end.
    fn sweep(&mut self) {
        let proc = &self.proc;
        let removed = self.object.sweep(|pid, start_ns| match proc.stat(pid) {
            Ok(Some(stat)) => stat.ended() || !proc.is_same(Identity { pid, start_ns }, &stat),
            Ok(None) => true,
            Err(_) => false,
        });
        for (pid, tracked) in removed {
            let identity = self.translator.tracked_identity(pid, tracked.start_ns);
            if let Some(&role) = self.translator.known.get(&identity) {
                let (code, signal, reads) = (None, None, None);
                let (pid, start_ns, source) = (pid, identity.start_ns, Source::Proc);
                self.exited(Exit { pid, start_ns, role, code, signal, reads, source });
            }
        }
    }

    /// Looks for workers whose tokens stand behind more arguments than the programs search.
    fn search_long_argv(&mut self) -> Result<()> {
        let found = proc::snapshot(&self.proc, &self.profile, &mut self.translator.book)
            .context("cannot read /proc")?;
        let new: Vec<Spawn> = found
            .into_iter()
            .filter(|spawn| !self.translator.known.contains_key(&spawn.identity()))
            .collect();
        let workers = new.iter().filter(|spawn| spawn.role == Role::Worker).count() as u64;
        if workers > 0 {
            let reason = GapReason::ArgvNotSearched;
            self.pending.push(Observation {
                boottime_ns: boottime_ns(),
                body: Body::Gap(Gap { reason, lost: workers, resynced: true }),
            });
        }
        for spawn in new {
            self.adopt(spawn)?;
        }
        Ok(())
    }

    /// Has the kernel track a process that /proc shows, and what is above it.
    fn adopt(&mut self, spawn: Spawn) -> Result<()> {
        let identity = spawn.identity();
        if self.translator.known.contains_key(&identity) {
            return Ok(());
        }
        let worker = spawn.worker.unwrap_or(identity);
        self.track(identity, spawn.role, worker)?;
        if spawn.role == Role::Worker
            && let Some(parent) = &spawn.parent
            && !parent.reaper
        {
            debug_assert_eq!(parent.how, ParentSource::Proc);
            self.track(parent.process.identity(), Role::Gateway, Identity { pid: 0, start_ns: 0 })?;
            for above in &spawn.ancestors {
                self.track(above.identity(), Role::Ancestor, Identity { pid: 0, start_ns: 0 })?;
            }
        }
        let now = boottime_ns();
        let role = spawn.role;
        let mut above: Vec<(Identity, Role)> = Vec::new();
        if let Some(parent) = &spawn.parent
            && role == Role::Worker
            && !parent.reaper
        {
            above.push((parent.process.identity(), Role::Gateway));
            above.extend(spawn.ancestors.iter().map(|p| (p.identity(), Role::Ancestor)));
        }
        self.keep(Observation { boottime_ns: now, body: Body::Spawn(Box::new(spawn)) });
        // Any of them may have ended before the kernel knew that it is to tell.
        for (identity, role) in [(identity, role)].into_iter().chain(above) {
            if self.is_alive(identity) || !self.translator.known.contains_key(&identity) {
                continue;
            }
            self.object.untrack(identity.pid);
            self.exited(Exit {
                pid: identity.pid,
                start_ns: identity.start_ns,
                role,
                code: None,
                signal: None,
                reads: None,
                source: Source::Proc,
            });
        }
        Ok(())
    }

    fn is_alive(&self, identity: Identity) -> bool {
        matches!(self.proc.stat(identity.pid), Ok(Some(stat))
            if self.proc.is_same(identity, &stat) && !stat.ended())
    }

    fn track(&mut self, identity: Identity, role: Role, worker: Identity) -> Result<()> {
        let known = self.translator.known.entry(identity).or_insert(role);
        if *known != role && role != Role::Worker {
            return Ok(());
        }
        *known = role;
        let tracked = Tracked {
            start_ns: identity.start_ns,
            worker_start_ns: worker.start_ns,
            reads: 0,
            worker: worker.pid,
            role: wire_role(role) as u32,
        };
        self.object.track(identity.pid, tracked)
    }

    fn exited(&mut self, exit: Exit) {
        self.translator.forget(exit.identity());
        self.keep(Observation { boottime_ns: boottime_ns(), body: Body::Exit(exit) });
    }
}

/// The kernel programs tell pids of the initial pid namespace, which must be those of /proc here.
fn check_pid_namespace() -> Result<()> {
    let here = std::fs::read_link("/proc/self/ns/pid")
        .context("cannot read /proc/self/ns/pid: is /proc mounted?")?;
    if here.to_str() == Some(proc::INITIAL_PID_NAMESPACE) {
        return Ok(());
    }
    Err(anyhow!(
        "this is not the machine's initial pid namespace ({}): pids in /proc are not the kernel's",
        here.display()
    ))
    .next_step(
        "start the container with the host's pid namespace (`--pid=host`), or use `--sensor poll`",
    )
}

/// Tries each kernel program by itself, for `doctor`.
pub fn probe(profile: &Profile) -> Vec<Capability> {
    object::probe_hooks(&Rule::new(profile))
}
