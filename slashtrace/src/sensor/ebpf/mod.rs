//! The eBPF sensor set: kernel programs that see workers born, signalled and gone; the /proc
//! snapshot at the start; samples of what is tracked.
//!
//! `btf` finds kernel fields, `object` loads and attaches the programs, `optional` the hooks that a
//! kernel may not offer, `tables` is who is tracked, `rule` turns a profile into the kernel's filter, `ring` reads records while
//! others judge, `wire` decodes them, `replies` is the hook for
//! what gateways send, `translate` makes observations of them, `mistaken` knows who is
//! tracked and should not be, `loss` reconciles counters, `inventory` is what /proc shows beside all
//! that, `long_argv` what it shows of arguments that the kernel programs do not search.

mod btf;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod inventory;
mod long_argv;
mod loss;
mod marks;
mod mistaken;
mod object;
mod optional;
mod replies;
mod ring;
mod rule;
mod tables;
mod translate;
mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    mem, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use slashtrace_ebpf::{ARGV_MAX, RING_BYTES, TRACKED_MAX};
use tokio::time::{Instant, sleep_until};

use self::{
    long_argv::LongArgvWatch,
    loss::{Counts, Ledger, is_left_out},
    object::Object,
    optional::TerminalHook,
    ring::Ring,
    rule::Rule,
    translate::{Translated, Translator, model_role},
};
use super::{
    Description, Last, Next, Options, Sensor,
    surroundings::Surroundings,
    terminal::{self, instance_of},
};
use crate::{
    host::{
        clock::{boottime_ns, is_shifted},
        proc::{self, ProcFs},
    },
    model::{Body, Capability, Gap, GapReason, Identity, Limits, Observation, Role, SensorKind},
    next_step::NextStep as _,
    profile::Profile,
};

/// How often the kernel programs are rid of those who ended without their noticing.
const SWEEP: Duration = Duration::from_mins(1);
/// The same where there was no place for somebody. Who was left out is looked for after it.
const SWEEP_WHEN_FULL: Duration = Duration::from_secs(30);
/// Records, or observations, that are handled in one go: some milliseconds of work, after which
/// signals, deadlines and the reaper get their turn.
const BATCH: usize = 512;
/// Observations that room is kept for while nothing happens.
const IDLE: usize = 16;
/// How often the ring is read again for records that were counted and are not there yet: another
/// CPU is writing one before them. As often as this, 1 ms apart.
const AWAIT_TIMES: u32 = 20;

/// The eBPF sensor set.
#[derive(Debug)]
pub struct EbpfSensor {
    object: Object,
    ring: Ring,
    translator: Translator,
    surroundings: Surroundings,
    ledger: Ledger,
    profile: Profile,
    proc: ProcFs,
    interval: Duration,
    /// When the next round of samples is due.
    due: Instant,
    count_calls: bool,
    /// Empty between batches: memory that is used again.
    batch: Vec<Observation>,
    /// Observations that nobody has taken yet.
    pending: VecDeque<Observation>,
    /// When the last record happened that was taken from memory, ns of the boot clock.
    translated_ns: u64,
    /// Records that are to be translated before what inotify had is applied; none if nothing is
    /// held.
    terminals_after: Option<usize>,
    /// Messages that the hook for replies had missed when a reply was last observed.
    missed_messages: u64,
    swept_ns: u64,
    /// Some process may not be tracked because there was no place for it.
    untracked: bool,
    /// Who was put into the kernel's tables from here since the last round.
    young: Vec<(Identity, Role)>,
    /// Who had an entry and had ended: whether there is a record of that is known once all that was
    /// written before is read.
    gone: Vec<(Identity, Role)>,
    long: LongArgvWatch,
    /// Who an earlier recording knew, lives, and is not tracked.
    of_before: Vec<(Identity, Role)>,
    /// Calls that an earlier recording had counted, until their workers are tracked.
    reads_before: BTreeMap<Identity, u64>,
}

impl EbpfSensor {
    /// Loads and attaches the kernel programs, then looks at what was there before them. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Without BTF, without the privilege, or if the kernel refuses a program.
    pub fn start(options: &Options) -> Result<Self> {
        check_pid_namespace()?;
        check_time_namespace()?;
        let mut object = Object::load(
            &Rule::new(&options.profile),
            options.count_calls,
            options.terminal_hook,
            options.kernel_log,
        )?;
        let events = object.take_events().context("the ring buffer is in use")?;
        let proc = ProcFs::new("/proc");
        let mut sensor = Self {
            object,
            ring: Ring::start(events)?,
            translator: Translator::new(options.profile.clone(), proc.clone(), options.count_calls),
            surroundings: Surroundings::start(&proc, &options.profile, &options.before),
            of_before: Vec::new(),
            reads_before: options.before.reads.clone(),
            ledger: Ledger::default(),
            profile: options.profile.clone(),
            proc,
            interval: options.sample_interval,
            due: Instant::now(),
            count_calls: options.count_calls,
            batch: Vec::new(),
            pending: VecDeque::new(),
            translated_ns: 0,
            terminals_after: None,
            missed_messages: 0,
            swept_ns: boottime_ns(),
            untracked: false,
            young: Vec::new(),
            gone: Vec::new(),
            long: LongArgvWatch::default(),
        };
        sensor.look_at_what_is_there()?;
        sensor.reads_before = BTreeMap::new();
        sensor.end_those_of_before(&options.before.processes);
        Ok(sensor)
    }

    fn terminal_capability(&self) -> Capability {
        let inotify = self.surroundings.terminal_capability();
        let hook = self.object.terminal_hook.describe();
        match (&self.object.terminal_hook, inotify.ok) {
            (TerminalHook::Inotify { .. }, _) | (_, false) => inotify,
            _ => Capability { detail: format!("{hook}; {}", inotify.detail), ..inotify },
        }
    }

    fn reply_capability(&self) -> Capability {
        let (name, hook) = (replies::REPLIES.to_owned(), &self.object.reply_hook);
        Capability { name, ok: hook.is_there(), detail: hook.describe() }
    }

    async fn wait(&mut self) -> Result<Vec<Observation>> {
        loop {
            if !self.pending.is_empty() {
                let count = self.pending.len().min(BATCH);
                return Ok(self.pending.drain(..count).collect());
            }
            // Asked for here: while records come without end nothing below is waited for.
            if Instant::now() >= self.due {
                self.round()?;
                self.due = Instant::now() + self.interval;
                continue;
            }
            let first_look = self.first_look();
            if !self.pending.is_empty() {
                continue;
            }
            if self.long.is_due() {
                self.translate_all();
                self.search_long_argv()?;
                continue;
            }
            if self.ring.queued() == 0 {
                // A storm's room is for storms.
                if self.pending.capacity() > IDLE {
                    self.pending = VecDeque::new();
                }
                if self.batch.capacity() > IDLE {
                    self.batch = Vec::new();
                }
                let due = [first_look, self.long.due()]
                    .into_iter()
                    .flatten()
                    .fold(self.due, Instant::min);
                tokio::select! {
                    ready = self.ring.readable() => ready.context("cannot wait for the ring buffer")?,
                    () = self.surroundings.readable() => {}
                    () = sleep_until(due) => continue,
                }
            }
            self.translate(BATCH);
        }
    }

    /// Looks at workers that were spawned a moment ago, if that is due; when that is to be done
    /// next.
    fn first_look(&mut self) -> Option<Instant> {
        let due_ns = self.surroundings.first_look_due_ns()?;
        let now_ns = boottime_ns();
        if now_ns >= due_ns {
            let mut found = Vec::new();
            self.surroundings.first_look(now_ns, &mut found);
            self.pending.extend(found);
        }
        let due_ns = self.surroundings.first_look_due_ns()?;
        Some(Instant::now() + Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }

    /// Translates at most `max` records, and applies what inotify had before them.
    fn translate(&mut self, max: usize) {
        if self.terminals_after.is_none() {
            // The close of a terminal comes with signals to who was on it; and the kernel program
            // told of a close before its node was removed, and knows who closed it.
            self.surroundings.read_terminals();
            self.ring.drain();
            self.terminals_after = Some(self.ring.queued());
        }
        let records = self.ring.take(max);
        let before = self.terminals_after.unwrap_or(0);
        let left = before.saturating_sub(records.len());
        self.terminals_after = Some(left);
        let mut batch = mem::take(&mut self.batch);
        // Signals bear on no terminal, and whoever acts on its end does not wait for them.
        if left == 0 && records.iter().take(before).all(wire::is_signal) {
            self.surroundings.apply_terminals(&mut batch);
        }
        for record in records {
            self.translate_record(&record, &mut batch);
        }
        if left == 0 {
            self.terminals_after = None;
            self.surroundings.apply_terminals(&mut batch);
        }
        self.doubt_replies(&mut batch);
        self.surroundings.complete(batch.drain(..), boottime_ns(), &mut self.pending);
        self.batch = batch;
        self.hand_over_terminals();
    }

    /// Translates whatever there is: for those who compare with /proc.
    fn translate_all(&mut self) {
        self.ring.drain();
        self.translate_counted(self.ring.queued());
    }

    /// Translates so many records, and no more although more may come all the time.
    fn translate_counted(&mut self, records: usize) {
        let mut left = records;
        while left > 0 {
            let count = left.min(BATCH);
            self.translate(count);
            left -= count;
        }
    }

    fn translate_record(&mut self, record: &Bytes, batch: &mut Vec<Observation>) {
        let event = wire::decode(record);
        self.ledger.read(event.is_ok());
        let Ok(event) = event else { return };
        self.translated_ns = self.translated_ns.max(event.boottime_ns);
        match self.translator.translate(event, &mut self.surroundings.book) {
            Translated::Observation(observation) => {
                self.untrack_dead_forker(&observation.body);
                self.surroundings.observe(observation, batch);
            }
            Translated::Terminal { device, index, closer, boottime_ns } => {
                let place = (instance_of(device), index);
                self.surroundings.terminal_closed(place, boottime_ns, closer, batch);
            }
            Translated::ThreadForked { gateway, tid, child } => {
                self.surroundings.thread_forked(gateway, tid, child);
            }
            Translated::Act { gateway, act, boottime_ns } => {
                self.surroundings.gateway_acted(gateway, boottime_ns, act, batch);
            }
            Translated::LongArgv(long) => self.long_argv(long, batch),
            Translated::Dropped => {}
        }
        for (id, tracked) in mem::take(&mut self.translator.corrections) {
            let fits = self.object.tables.correct(id, tracked);
            if !fits && self.object.tables.get(id.pid).is_none() {
                // Nobody would be told of its end.
                self.translator.forget(id);
            }
            self.left_out(u64::from(!fits));
            // Who is above a worker may have ended meanwhile.
            if let Some(known) = tracked
                && let Some(role) = slashtrace_ebpf::Role::from_u32(known.role)
            {
                self.end_if_gone(id, model_role(role));
                self.young.push((id, model_role(role)));
            }
        }
    }

    /// Where the hook missed messages since the last time, any of these may be missing in a reply.
    fn doubt_replies(&mut self, batch: &mut [Observation]) {
        let replies = batch.iter_mut().filter_map(|observation| match &mut observation.body {
            Body::Reply(reply) => Some(reply),
            _ => None,
        });
        let mut replies = replies.peekable();
        if replies.peek().is_none() {
            return;
        }
        let missed = self.object.missed_messages();
        if mem::replace(&mut self.missed_messages, missed) != missed {
            replies.for_each(|reply| reply.complete = false);
        }
    }

    /// Keeps observations that no record made.
    fn keep(&mut self, batch: Vec<Observation>) {
        self.surroundings.complete(batch, boottime_ns(), &mut self.pending);
        self.hand_over_terminals();
    }

    /// Hands the terminals whose ends are to be observed to the kernel programs.
    fn hand_over_terminals(&mut self) {
        for (watch, place) in self.surroundings.terminal_changes() {
            let terminal = terminal::key_of(place);
            if watch {
                self.object.watch_terminal(terminal);
            } else {
                self.object.forget_terminal(terminal);
            }
        }
        for (watch, gateway) in self.surroundings.gateway_changes() {
            let done = if watch {
                self.object.watch_gateway(gateway.id.pid, &gateway.ports)
            } else {
                self.object.forget_gateway(gateway.id.pid)
            };
            // Its workers are joined to terminals less surely, or not at all.
            drop(done);
        }
    }

    /// One round of samples, and the books.
    fn round(&mut self) -> Result<()> {
        if let Some(log) = &mut self.object.log {
            log.flush();
        }
        let gone = mem::take(&mut self.gone);
        self.reconcile()?;
        if !gone.is_empty() {
            self.translate_all();
            self.observe_ends(gone);
        }
        self.observe_held_signals();
        self.look_at_young();
        let counts = self.count_calls;
        let object = &self.object;
        let reads = |identity: Identity| {
            counts.then(|| object.tables.get(identity.pid)).flatten().map(|tracked| tracked.reads)
        };
        // Those of workers are asked for by their samples.
        let others = self.translator.tracked().filter(|(_, role)| *role != Role::Worker);
        others.for_each(|(id, _)| self.surroundings.book.keep(id));
        let mut found = Vec::new();
        self.surroundings.sample(boottime_ns(), &reads, &mut found);
        self.surroundings.refresh(boottime_ns(), &mut found);
        self.doubt_replies(&mut found);
        self.pending.extend(found);
        self.hand_over_terminals();
        Ok(())
    }

    /// Observes the signals that the kernel programs have only counted.
    fn observe_held_signals(&mut self) {
        let now = boottime_ns();
        let mut batch = Vec::new();
        for (key, burst) in self.object.held_signals() {
            let Some(event) = wire::held(key, &burst, now) else { continue };
            let translated = self.translator.translate(event, &mut self.surroundings.book);
            if let Translated::Observation(observation) = translated {
                self.surroundings.observe(observation, &mut batch);
            }
        }
        self.keep(batch);
    }

    /// Compares what the kernel programs counted with what was read. The number of records in
    /// memory that are among those counted.
    fn reconcile(&mut self) -> Result<usize> {
        let counts = Counts {
            counters: self.object.counters()?,
            missed_runs: self.object.missed_runs(),
            tracked: self.object.tables.total(),
        };
        let awaited = self.ledger.awaited(&counts) as usize;
        let mut queued = self.ring.drain_to(awaited);
        for _ in 0..AWAIT_TIMES {
            if queued >= awaited {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            queued = self.ring.drain_to(awaited);
        }
        let gaps = self.ledger.reconcile(counts, queued as u64);
        let mut counted = awaited.min(queued);
        let now = boottime_ns();
        if !gaps.is_empty() {
            counted = 0;
            // What is known must be up to date before it is compared with /proc.
            self.translate_all();
            self.untracked |= gaps.iter().any(|gap| is_left_out(gap.reason));
            let resync = gaps.iter().any(|gap| gap.resynced);
            self.pending.extend(
                gaps.into_iter().map(|gap| Observation { boottime_ns: now, body: Body::Gap(gap) }),
            );
            if resync {
                self.resync(true)?;
            }
        }
        let since = now.saturating_sub(self.swept_ns);
        let after = if self.untracked { SWEEP_WHEN_FULL } else { SWEEP };
        if since >= after.as_nanos() as u64 {
            self.swept_ns = now;
            self.sweep();
            if self.untracked {
                counted = 0;
                self.translate_all();
                self.resync(false)?;
            }
        }
        Ok(counted)
    }
}

impl Sensor for EbpfSensor {
    fn describe(&self) -> Description {
        let capability =
            |name: &str, detail: String| Capability { name: name.to_owned(), ok: true, detail };
        let hooks = object::hooks().map(|hook| capability(hook, "BTF tracepoint".to_owned()));
        let calls = self.object.call_hook.iter();
        let calls = calls.map(|hook| capability(optional::COUNT_CALLS, hook.describe()));
        Description {
            kind: SensorKind::Ebpf,
            capabilities: hooks
                .chain(calls)
                .chain([self.surroundings.clients_capability(), self.terminal_capability()])
                .chain([self.reply_capability()])
                .chain([Surroundings::use_capability()])
                .collect(),
            calls_counted: self.count_calls,
            limits: Limits {
                argv_searched_bytes: ARGV_MAX as u32,
                ring_bytes: RING_BYTES,
                tracked_max: TRACKED_MAX,
                sample_interval_ms: self.interval.as_millis() as u64,
            },
        }
    }

    /// Waits for the next observations. Cancel-safe: what was taken from the kernel is kept until
    /// it is returned.
    fn next(&mut self) -> Next<'_> {
        Box::pin(self.wait())
    }

    fn horizon(&self, now_ns: u64) -> u64 {
        let pending = self.pending.front().map(|observation| observation.boottime_ns);
        let queued = (self.ring.queued() > 0).then_some(self.translated_ns);
        [pending, queued].into_iter().flatten().fold(now_ns, u64::min)
    }

    /// Hands over what is left, and detaches.
    fn finish(mut self: Box<Self>) -> Result<Last> {
        // In a storm more comes all the time: the recording ends with what was counted now.
        let counted = self.reconcile()?;
        self.observe_held_signals();
        self.translate_counted(counted);
        if self.long.is_pending() {
            self.search_long_argv()?;
        }
        // No more records are read: whatever was not told of until now is not told by them.
        self.look_at_young();
        let gone = mem::take(&mut self.gone);
        self.observe_ends(gone);
        let unreported = self.ledger.long_argv_unreported();
        let missed = self.long.missed(unreported);
        if missed > 0 {
            let reason = GapReason::ArgvNotSearched;
            let gap = Gap { reason, lost: missed, resynced: false, uid: None };
            let boottime_ns = boottime_ns();
            self.pending.push_back(Observation { boottime_ns, body: Body::Gap(gap) });
        }
        let mut found = Vec::new();
        self.surroundings.read_terminals();
        self.surroundings.apply_terminals(&mut found);
        self.pending.extend(found);
        Ok(Last {
            observations: mem::take(&mut self.pending).into(),
            counters: self.ledger.by_name(),
            complete: self.ledger.complete() && self.long.complete(unreported),
        })
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

/// Start times in /proc are those of the reader's time namespace (`do_task_stat`, fs/proc/array.c), and
/// the kernel programs read the machine's. /proc alone agrees with itself.
fn check_time_namespace() -> Result<()> {
    // Kernels before 5.6 have none, and no such file.
    match std::fs::read_to_string("/proc/self/timens_offsets") {
        Ok(offsets) if is_shifted(&offsets) => Err(anyhow!(
            "the clocks of this time namespace are shifted: start times in /proc are not the kernel's"
        ))
        .next_step(
            "run it outside of the time namespace (`nsenter --time=/proc/1/ns/time slashtrace …`), or \
             use `--sensor poll`",
        ),
        _ => Ok(()),
    }
}

/// Tries each kernel program by itself, for `doctor`.
pub fn probe(profile: &Profile) -> Vec<Capability> {
    object::probe_hooks(&Rule::new(profile))
}
