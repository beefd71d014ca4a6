mod feed;

use std::{collections::BTreeMap, ffi::OsString, future::pending, io, mem, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use self::feed::{abandon, finish, look_after, observe, observe_and_act, observe_and_commit, tick};
use super::{
    Sink, command::Command, pipeline::Pipeline, quota::Bounds, resume::Resumed, signals::Signals,
    start::start_record, tally::Tally,
};
use crate::{
    host::clock::boottime_ns,
    model::{Body, Observation, SensorKind},
    profile::Profile,
    reaper::{Policy, Reaper},
    redact::Redaction,
    sensor::{Description, Sensor},
    sink::Standing,
};

/// How long a command that was asked to end may take before the recording ends without it.
const COMMAND_GRACE: Duration = Duration::from_secs(10);
/// How long after a command's end its last events may be on their way.
const SETTLE: Duration = Duration::from_millis(500);
/// The engine is given ticks at most this often, whatever its deadlines.
const TICK_MIN: Duration = Duration::from_millis(20);
/// The longest time between two readings of /proc (`sensor::poll`).
const POLL: Duration = Duration::from_secs(1);
/// How often to look whether the reaper is done when the time is over.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// How often it is looked how the writing is going: while it is going badly, and otherwise.
const BEHIND: Duration = Duration::from_millis(100);
const WRITING: Duration = Duration::from_secs(2);
/// How long nothing can be written before people are told: a reader may be slow.
const TROUBLE: Duration = Duration::from_secs(1);
/// After a restart every worker, terminal and client was looked at within this time.
const LOOKED_AROUND: Duration = Duration::from_secs(15);
/// How long a deadline is slept for at a time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// When to end, and what to run meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// End after this long. A command that still runs is asked to end (SIGTERM) first.
    pub duration: Option<Duration>,
    /// A command to run; its end is the end.
    pub command: Option<Vec<OsString>>,
    /// How long to go on watching after the command's end. Without it: as long as workers outlive
    /// their gateway, but no longer than it takes to call them orphans.
    pub linger: Option<Duration>,
    /// How often to say how it is going.
    pub status: Option<Duration>,
    /// What the reaper may do; without it there is none.
    pub policy: Option<Policy>,
    /// What is masked beyond what sensors mask.
    pub redaction: Redaction,
    /// Variables for the command, beside its own.
    pub environment: Vec<(OsString, OsString)>,
    /// How much evidence each user's processes may make.
    pub bounds: Bounds,
    /// SIGHUP has the evidence opened anew, unless our terminal closed.
    pub reopens: bool,
    /// What it goes on from.
    pub resumed: Option<Resumed>,
}

/// What a person is told beside the records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Note {
    /// Something that they want to know.
    Line(String),
    /// How it is going; each takes the place of the one before.
    Status(String),
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// By this signal: SIGINT, SIGTERM or SIGHUP.
    Signal(i32),
    /// The time that was asked for is over.
    Duration,
    /// The command that was traced ended, with this exit code.
    Command(u8),
    /// Whoever read the evidence on stdout went away.
    OutputClosed,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Signal(libc::SIGTERM) => "terminated",
            Self::Signal(libc::SIGHUP) => "hangup",
            Self::Signal(_) => "interrupted",
            Self::Duration => "duration",
            Self::Command(_) => "command-exited",
            Self::OutputClosed => "output-closed",
        }
    }
}

/// What came of a recording.
#[derive(Debug)]
pub struct Ended {
    /// Why it ended.
    pub reason: Reason,
    /// Whether nothing is known to be missing.
    pub complete: bool,
    /// Counters of the sensors.
    pub counters: BTreeMap<String, u64>,
    /// What it comes to.
    pub tally: Tally,
}

/// Records until the plan says to end or a signal does. `tell` gets what people are to know.
///
/// # Errors
/// If the command cannot be started: then nothing has been written. If the sensor fails: what it
/// saw is kept and marked as incomplete. If a sink fails: what was written until then is whole.
pub async fn record(
    mut sensor: Box<dyn Sensor>,
    profile: &Profile,
    sinks: Vec<&mut dyn Sink>,
    plan: &Plan,
    tell: &mut dyn FnMut(Note),
) -> Result<Ended> {
    let signals = Signals::install(plan.reopens).context("cannot take over signals")?;
    let description = sensor.describe();
    let mut start = start_record(&description, profile, plan.policy.as_ref())?;
    start.resumed = plan.resumed.is_some();
    start.pseudonyms = Some(plan.redaction.fingerprint());
    // The command's own start is part of the recording, so the recording begins before it.
    let mut began = vec![feed::now(Body::Start(Box::new(start)))];
    if let Some(resumed) = &plan.resumed {
        began.extend(feed::resumed(resumed));
    }
    let command =
        plan.command.as_deref().map(|argv| Command::spawn(argv, &plan.environment)).transpose()?;
    let pipeline = Pipeline::new(profile, sinks).redacting(plan.redaction.clone());
    let mut pipeline = pipeline.bounded(plan.bounds);
    if let Some(policy) = &plan.policy {
        let reaper = Reaper::new(profile.clone(), policy.clone());
        let mut reaper = reaper.redacting(plan.redaction.clone());
        if plan.resumed.is_some() {
            reaper.wait_until(boottime_ns() + LOOKED_AROUND.as_nanos() as u64);
        }
        pipeline.reap_with(reaper);
    }
    if let Some(resumed) = &plan.resumed {
        pipeline.resume_after(resumed.seq);
    }
    let mut course = Course::new(plan, profile, &description, signals, command, tell);
    let followed = match observe(&mut pipeline, began) {
        Ok(()) => course.follow(&mut *sensor, &mut pipeline).await,
        Err(error) => Err(Failure::Sink(error)),
    };
    let ended = match followed {
        Ok(reason) => {
            course.say_who_is_under_way(pipeline.under_way());
            finish(sensor, pipeline, reason)
        }
        Err(Failure::Sensor(error)) => Err(abandon(sensor, pipeline, error)),
        Err(Failure::Sink(error)) => Err(error),
    };
    match ended {
        Err(error) if is_closed(&error) => Ok(Ended {
            reason: Reason::OutputClosed,
            complete: true,
            counters: BTreeMap::new(),
            tally: Tally::default(),
        }),
        Err(error) => Err(match course.outlive(&error).await {
            Some(code) => error.context(CommandEnded(code)),
            None => error,
        }),
        ended => ended,
    }
}

/// That the command ended all the same, with this exit code: what went wrong here does not hide it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the command ended with exit code {0}")]
pub struct CommandEnded(pub u8);

/// Whether all there is to an error is that the reader of stdout went away.
fn is_closed(error: &anyhow::Error) -> bool {
    let mut errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

enum Failure {
    Sensor(anyhow::Error),
    Sink(anyhow::Error),
}

/// Where a recording stands.
struct Course<'a> {
    signals: Signals,
    command: Option<Command>,
    /// The command's code, once it has ended.
    code: Option<u8>,
    /// Whether the command was asked to end: by a signal that was handed on, or by its time.
    asked: bool,
    timed_out: bool,
    until: Option<Instant>,
    /// No end before this: events may be on their way.
    settled: Option<Instant>,
    settle: Duration,
    linger: Option<Duration>,
    orphan: Duration,
    status: Option<Duration>,
    began: Instant,
    ticked: Instant,
    /// When to look again how the writing is going.
    look: Instant,
    /// Since when nothing can be written, and whether people were told.
    trouble: Option<(Instant, bool)>,
    /// Records that were not written and that people were told of.
    missed: u64,
    tell: &'a mut dyn FnMut(Note),
}

impl<'a> Course<'a> {
    fn new(
        plan: &Plan,
        profile: &Profile,
        description: &Description,
        signals: Signals,
        command: Option<Command>,
        tell: &'a mut dyn FnMut(Note),
    ) -> Self {
        let now = Instant::now();
        // A poll sees what happened an interval later.
        let settle = match description.kind {
            SensorKind::Ebpf => SETTLE,
            SensorKind::Poll => {
                SETTLE + POLL.min(Duration::from_millis(description.limits.sample_interval_ms))
            }
        };
        Self {
            signals,
            command,
            code: None,
            asked: false,
            timed_out: false,
            until: plan.duration.and_then(|duration| now.checked_add(duration)),
            settled: None,
            settle,
            linger: plan.linger,
            orphan: Duration::from_nanos(profile.graces.orphan.as_ns()),
            status: plan.status,
            began: now,
            ticked: now,
            look: now + WRITING,
            trouble: None,
            missed: 0,
            tell,
        }
    }

    async fn follow(
        &mut self,
        sensor: &mut dyn Sensor,
        pipeline: &mut Pipeline<'_>,
    ) -> Result<Reason, Failure> {
        let mut status = self.status.map(|every| Instant::now() + every);
        // Whether the last turn was the sensor's: then it is everybody else's first.
        let mut observed = false;
        loop {
            let due = pipeline.next_deadline().map(|deadline| self.instant_of(deadline));
            if pipeline.has_news() {
                self.look = Instant::now();
            }
            tokio::select! {
                biased;
                signal = self.signals.next() => {
                    if self.signals.reopens(signal) {
                        pipeline.reopen();
                    } else if let Some(reason) = self.on_signal(signal) {
                        return Ok(reason);
                    }
                }
                code = wait(&mut self.command) => {
                    if let Some(reason) = self.on_command_end(code) {
                        return Ok(reason);
                    }
                }
                () = at(self.until) => {
                    if self.command.is_none() && pipeline.under_way() > 0 && !pipeline.pauses() {
                        // What was begun is brought to its end.
                        self.until = Some(Instant::now() + UNDER_WAY);
                        continue;
                    }
                    if let Some(reason) = self.on_time() {
                        return Ok(reason);
                    }
                }
                () = sleep_until(self.look) => {
                    let standing = look_after(pipeline).map_err(Failure::Sink)?;
                    self.report_writing(standing, pipeline);
                }
                batch = next(sensor, mem::take(&mut observed)) => {
                    let batch = batch.map_err(Failure::Sensor)?;
                    observe_and_act(pipeline, batch).map_err(Failure::Sink)?;
                    if pipeline.pauses() {
                        self.look = self.look.min(Instant::now() + BEHIND);
                    }
                    observed = true;
                }
                () = at(due) => {
                    self.ticked = Instant::now();
                    // What waits in the sensor is judged first, or whoever ended a moment ago
                    // would be found to live too long.
                    let now = sensor.horizon(boottime_ns());
                    tick(pipeline, now).map_err(Failure::Sink)?;
                }
                // Behind the sensors and the clock: it acts on what is known by now.
                actions = pipeline.act() => {
                    observe_and_commit(pipeline, actions).map_err(Failure::Sink)?;
                    if pipeline.pauses() {
                        self.look = Instant::now() + BEHIND;
                    }
                }
                () = at(self.settled) => {
                    self.settled = None;
                    self.say_who_is_left(pipeline.tally().left_behind());
                }
                () = at(status) => {
                    status = self.status.map(|every| Instant::now() + every);
                    let line = self.status_line(pipeline.tally());
                    (self.tell)(Note::Status(line));
                }
            }
            if let Some(code) = self.code
                && self.linger.is_none()
                && self.settled.is_none()
                && pipeline.tally().left_behind() == 0
            {
                return Ok(Reason::Command(code));
            }
        }
    }

    /// The recording failed: waits for the command that runs on without it, still handing signals
    /// on. Its exit code; none if there is no command.
    async fn outlive(&mut self, error: &anyhow::Error) -> Option<u8> {
        if self.command.is_some() {
            self.say(&format!("the recording failed ({error}); the command goes on without it"));
        }
        while self.command.is_some() {
            tokio::select! {
                signal = self.signals.next() => {
                    if let Some(command) = &self.command {
                        command.hand_on(signal);
                    }
                }
                code = wait(&mut self.command) => {
                    self.command = None;
                    self.code = Some(code.unwrap_or(u8::MAX));
                }
            }
        }
        self.code
    }

    /// The moment of tokio's clock that is `deadline` ns of the boot clock; a little later rather
    /// than earlier, or the engine would have nothing to say yet, and not right after the last tick.
    fn instant_of(&self, deadline: u64) -> Instant {
        let ahead = Duration::from_nanos(deadline.saturating_sub(boottime_ns()));
        // Far deadlines are looked at again at least this often: tokio's clock stands still while
        // the machine is suspended, the boot clock does not.
        let at = Instant::now() + ahead.min(LOOK_AGAIN) + Duration::from_millis(1);
        at.max(self.ticked + TICK_MIN)
    }

    /// The first signal is the command's, where one runs; the recording ends when it does. A
    /// second one ends the recording.
    fn on_signal(&mut self, signal: i32) -> Option<Reason> {
        match &self.command {
            Some(command) if !self.asked => {
                self.asked = true;
                command.hand_on(signal);
                self.say(
                    "waiting for the command to end; the same again ends the recording without it",
                );
                None
            }
            _ => Some(self.code.map_or(Reason::Signal(signal), Reason::Command)),
        }
    }

    fn on_command_end(&mut self, code: io::Result<u8>) -> Option<Reason> {
        self.command = None;
        if self.timed_out {
            return Some(Reason::Duration);
        }
        // waitpid(2) fails only if somebody else reaped the child: its code is unknown.
        self.code = Some(code.unwrap_or(u8::MAX));
        let now = Instant::now();
        self.settled = Some(now + self.settle);
        self.until = Some(now + self.settle + self.linger.unwrap_or(self.orphan + SETTLE));
        None
    }

    fn on_time(&mut self) -> Option<Reason> {
        match (&self.command, self.code) {
            (None, Some(code)) => Some(Reason::Command(code)),
            (Some(command), _) if !self.timed_out => {
                self.timed_out = true;
                self.asked = true;
                command.terminate();
                self.until = Some(Instant::now() + COMMAND_GRACE);
                self.say("the time is over; the command was asked to end (SIGTERM)");
                None
            }
            _ => Some(Reason::Duration),
        }
    }

    fn say_who_is_left(&mut self, workers: usize) {
        if workers > 0 && self.linger.is_none() {
            self.say(&format!(
                "the command ended; workers that outlive their gateway: {workers}; watching them \
                 until they count as orphans, Ctrl-C ends it"
            ));
        }
    }

    /// Those that got SIGTERM get no SIGKILL from a recording that has ended.
    fn say_who_is_under_way(&mut self, workers: usize) {
        if workers > 0 {
            self.say(&format!(
                "workers that were sent SIGTERM and have not ended yet: {workers}; they get no \
                 SIGKILL"
            ));
        }
    }

    /// Tells people when nothing can be written, and when that is over.
    fn report_writing(&mut self, standing: Standing, pipeline: &Pipeline<'_>) {
        let troubled = standing.behind || pipeline.pauses();
        self.look = Instant::now() + if troubled { BEHIND } else { WRITING };
        for note in standing.notes {
            self.say(&note);
        }
        if !troubled {
            if let Some((_, true)) = self.trouble.take() {
                let before = mem::replace(&mut self.missed, pipeline.missed());
                let missed = match pipeline.missed() - before {
                    0 => "nothing was lost".to_owned(),
                    1 => "1 record was not written".to_owned(),
                    n => format!("{n} records were not written"),
                };
                let on = if pipeline.reaps() { "; ending workers goes on" } else { "" };
                self.say(&format!("evidence is written again: {missed}{on}"));
            }
            return;
        }
        let (since, told) = self.trouble.get_or_insert_with(|| (Instant::now(), false));
        if !*told && since.elapsed() >= TROUBLE {
            *told = true;
            let why = standing.trouble.as_deref().unwrap_or("evidence is written too slowly");
            let paused = if pipeline.reaps() { "; ending workers pauses meanwhile" } else { "" };
            let line = format!("{why}; watching goes on{paused}");
            self.say(&line);
        }
    }

    fn say(&mut self, line: &str) {
        (self.tell)(Note::Line(line.to_owned()));
    }

    fn status_line(&self, tally: &Tally) -> String {
        let unwritten = if matches!(self.trouble, Some((_, true))) { "NOT WRITTEN; " } else { "" };
        format!(
            "{unwritten}recording for {} s: workers {} live, {} spawned, {} exited; findings {} open, {} in \
             all; Ctrl-C ends",
            self.began.elapsed().as_secs(),
            tally.live(),
            tally.spawned(),
            tally.exited(),
            tally.open(),
            tally.findings(),
        )
    }
}

/// The sensor's next observations; after those of the turn before only once the reactor and every
/// other arm had their turn. Cancel-safe.
async fn next(sensor: &mut dyn Sensor, again: bool) -> Result<Vec<Observation>> {
    if again {
        yield_now().await;
    }
    sensor.next().await
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

async fn wait(command: &mut Option<Command>) -> io::Result<u8> {
    match command {
        Some(command) => command.wait().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
