use std::{collections::BTreeMap, pin::pin, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{Sink, pipeline::Pipeline};
use crate::{
    model::{Body, Host, Observation, Start, Stop},
    profile::Profile,
    sensor::{
        Description, Sensor,
        clock::{boottime_ns, wall_time},
        proc::ProcFs,
    },
};

/// How a recording ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// Whether nothing is known to be missing.
    pub complete: bool,
    /// Counters of the sensors.
    pub counters: BTreeMap<String, u64>,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// The time that was asked for is over.
    Duration,
    /// The command that was traced ended.
    Command,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Duration => "duration",
            Self::Command => "command-exited",
        }
    }
}

/// When a recording is to end, beside being told by a signal.
pub struct Until<F> {
    /// After this time.
    pub duration: Option<Duration>,
    /// When this is ready (a traced command ended); [`std::future::pending`] for never.
    pub command: F,
    /// Whether SIGINT ends it; not while a command runs that gets the terminal's SIGINT itself.
    pub signals: bool,
}

/// Records until it is told to end: drives the pipeline with what the sensor sees.
///
/// # Errors
/// If the sensor or a sink fails. What was written until then is whole.
pub async fn record<F: Future<Output = ()>>(
    mut sensor: Sensor,
    profile: &Profile,
    sinks: Vec<&mut dyn Sink>,
    until: Until<F>,
) -> Result<Ended> {
    let mut pipeline = Pipeline::new(profile.clone(), sinks);
    let start = start_record(&sensor.describe(), profile)?;
    observe(&mut pipeline, vec![now(Body::Start(Box::new(start)))])?;
    pipeline.flush()?;

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let end = until.duration.map(|duration| Instant::now() + duration);
    let mut command = pin!(until.command);
    let reason = loop {
        let deadline = pipeline.next_deadline().map(instant_of);
        tokio::select! {
            biased;
            observations = sensor.next() => {
                observe(&mut pipeline, observations?)?;
                pipeline.tick(boottime_ns(), wall_time(boottime_ns()))?;
                pipeline.flush()?;
            }
            () = maybe_sleep(deadline) => {
                let now = boottime_ns();
                pipeline.tick(now, wall_time(now))?;
                pipeline.flush()?;
            }
            () = maybe_sleep(end) => break Reason::Duration,
            () = &mut command => break Reason::Command,
            _ = interrupt.recv(), if until.signals => break Reason::Signal,
            _ = terminate.recv(), if until.signals => break Reason::Signal,
            _ = hangup.recv(), if until.signals => break Reason::Signal,
        }
    };

    let last = sensor.finish()?;
    observe(&mut pipeline, last.observations)?;
    let at = boottime_ns();
    pipeline.tick(at, wall_time(at))?;
    let stop = Stop {
        reason: reason.name().to_owned(),
        counters: last.counters.clone(),
        complete: last.complete,
    };
    observe(&mut pipeline, vec![now(Body::Stop(stop))])?;
    pipeline.flush()?;
    Ok(Ended { reason, complete: last.complete, counters: last.counters })
}

fn observe(pipeline: &mut Pipeline<'_>, observations: Vec<Observation>) -> Result<()> {
    for observation in observations {
        let time = wall_time(observation.boottime_ns);
        pipeline.observe(observation, time)?;
    }
    Ok(())
}

fn now(body: Body) -> Observation {
    Observation { boottime_ns: boottime_ns(), body }
}

async fn maybe_sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// The moment of tokio's clock that is `deadline` ns of the boot clock; a little later rather than
/// earlier, or the engine would be asked in vain.
fn instant_of(deadline: u64) -> Instant {
    let ahead = Duration::from_nanos(deadline.saturating_sub(boottime_ns()));
    // Far deadlines are looked at again at least this often: tokio's clock stands still while the
    // machine is suspended, the boot clock does not.
    Instant::now() + ahead.min(Duration::from_secs(30)) + Duration::from_millis(1)
}

fn start_record(description: &Description, profile: &Profile) -> Result<Start> {
    let uname = rustix::system::uname();
    let host = Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        memory: ProcFs::new("/proc").meminfo().context("cannot read /proc/meminfo")?,
    };
    Ok(Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host,
        sensor: description.kind,
        capabilities: description.capabilities.clone(),
        calls_counted: description.calls_counted,
        profile: profile.clone(),
        limits: description.limits,
    })
}
