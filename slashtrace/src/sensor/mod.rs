//! Everything that looks at the world: kernel programs, /proc, samples. Turns it into
//! [`Observation`]s. May touch: the kernel, `host`, `model`, `profile`, `redact`.
//! Never the engine: nothing here judges.

pub mod clients;
pub mod ebpf;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod join;
pub mod poll;
mod program;
pub mod sampler;
pub mod scope;
mod surroundings;
mod terminal;

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use anyhow::Result;

use crate::{
    model::{Capability, Identity, Limits, Observation, Role, SensorKind, TerminalEvent},
    profile::Profile,
};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The profile to watch for.
    pub profile: Profile,
    /// Interval between samples of tracked workers.
    pub sample_interval: Duration,
    /// Count reads of workers' stdin in the kernel.
    pub count_calls: bool,
    /// What the end of a terminal is told by.
    pub terminal_hook: TerminalChoice,
    /// Let the kernel programs log through aya-log, to stderr.
    pub kernel_log: bool,
    /// What an earlier recording knew that this one goes on from.
    pub before: Before,
}

/// What an earlier recording knew: processes and terminals keep their identities.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Tracked processes that live.
    pub processes: Vec<(Identity, Role)>,
    /// Calls that were counted so far.
    pub reads: BTreeMap<Identity, u64>,
    /// Open terminals, as they were last observed.
    pub terminals: Vec<TerminalEvent>,
    /// Processes that had ended and were not reaped.
    pub zombies: Vec<Identity>,
}

/// What the end of a terminal is to be told by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum TerminalChoice {
    /// The first that the kernel offers, in the order below.
    #[default]
    Auto,
    /// fentry of `devpts_pty_kill`.
    Fentry,
    /// A kprobe on it.
    Kprobe,
    /// inotify on devpts.
    Inotify,
}

/// What a sensor set turned out to be able to do here.
#[derive(Clone, Debug)]
pub struct Description {
    /// Which set it is.
    pub kind: SensorKind,
    /// What each part can do.
    pub capabilities: Vec<Capability>,
    /// Whether calls are counted exactly.
    pub calls_counted: bool,
    /// Bounds within which it sees everything.
    pub limits: Limits,
}

/// What a sensor set hands over when it is stopped.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// Observations that were still on their way.
    pub observations: Vec<Observation>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Whether nothing is known to have been missed.
    pub complete: bool,
}

/// What [`Sensor::next`] returns.
pub type Next<'a> = Pin<Box<dyn Future<Output = Result<Vec<Observation>>> + 'a>>;

/// A running sensor set: what a recording's observations come from.
pub trait Sensor {
    /// What it can do here.
    fn describe(&self) -> Description;

    /// Waits for the next observations; oldest first, never empty for long, and no more at a time
    /// than can be judged in some milliseconds. Cancel-safe: dropping the future loses nothing.
    fn next(&mut self) -> Next<'_>;

    /// The moment up to which everything that was observed has been handed over, ns of the boot
    /// clock. It lags behind `now_ns` while observations wait inside.
    fn horizon(&self, now_ns: u64) -> u64 {
        now_ns
    }

    /// Stops watching and hands over what is left.
    ///
    /// # Errors
    /// If the last reading of the kernel or of /proc failed.
    fn finish(self: Box<Self>) -> Result<Last>;
}
