//! Everything that looks at the world: kernel programs, /proc, samples. Turns it into
//! [`Observation`]s. May touch: the kernel, `host`, `model`, `profile`, `redact`.
//! Never the engine: nothing here judges.

pub mod clients;
pub mod ebpf;
pub mod poll;
mod program;
pub mod sampler;
pub mod scope;
mod terminal;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use crate::{
    model::{Capability, Limits, Observation, SensorKind},
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

/// A running sensor set.
#[derive(Debug)]
pub enum Sensor {
    /// Kernel programs, snapshot, samples.
    Ebpf(Box<ebpf::EbpfSensor>),
    /// /proc alone.
    Poll(Box<poll::PollSensor>),
}

impl Sensor {
    /// What it can do here.
    pub fn describe(&self) -> Description {
        match self {
            Self::Ebpf(sensor) => sensor.describe(),
            Self::Poll(sensor) => sensor.describe(),
        }
    }

    /// Waits for the next observations; oldest first, never empty for long. Cancel-safe: dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        match self {
            Self::Ebpf(sensor) => sensor.next().await,
            Self::Poll(sensor) => sensor.next().await,
        }
    }

    /// Stops watching and hands over what is left.
    pub fn finish(self) -> Result<Last> {
        match self {
            Self::Ebpf(sensor) => sensor.finish(),
            Self::Poll(sensor) => sensor.finish(),
        }
    }
}
