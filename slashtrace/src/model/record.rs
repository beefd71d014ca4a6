use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::VariantNames;

use super::{
    Action, Checkpoint, Clients, Exec, Exit, Finding, Gap, Program, Reply, Sample, Signal, Spawn,
    Start, Stop, TerminalEvent, Tick,
};

/// Version of the evidence format, in every record's `v`.
pub const FORMAT_VERSION: u32 = 1;

/// What happened, before it has a place in the evidence. Sensors make these.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When, ns of `CLOCK_BOOTTIME`.
    pub boottime_ns: u64,
    /// What. Never [`Body::Finding`]: sensors observe, they do not judge.
    pub body: Body,
}

/// One line of evidence.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Record {
    /// Format version, [`FORMAT_VERSION`].
    pub v: u32,
    /// Place in the file, from 1, without holes.
    pub seq: u64,
    /// Wall-clock time, RFC 3339 in UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Timestamp,
    /// The same moment in ns of `CLOCK_BOOTTIME`: this clock is used for every judgement.
    pub boottime_ns: u64,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// The record types.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize, VariantNames)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Body {
    /// First record: host, sensors, profile.
    Start(Box<Start>),
    /// What earlier records leave known, right after the `start` of a file that goes on.
    Checkpoint(Box<Checkpoint>),
    /// A worker or a descendant of one came to be.
    Spawn(Box<Spawn>),
    /// A tracked process executed another program.
    Exec(Exec),
    /// A tracked process ended.
    Exit(Exit),
    /// A signal was generated for a tracked process.
    Signal(Signal),
    /// What a tracked process looked like.
    Sample(Sample),
    /// A terminal that a worker may belong to was opened, changed or closed.
    Terminal(Box<TerminalEvent>),
    /// What runs as a gateway: version, installation, where.
    Program(Box<Program>),
    /// How many clients are connected to a gateway.
    Clients(Clients),
    /// What a gateway sent for a thread that had forked a worker.
    Reply(Box<Reply>),
    /// The reaper did something, or was about to. An observation for whoever judges.
    Action(Box<Action>),
    /// Time passed.
    Tick(Tick),
    /// Something was not seen.
    Gap(Gap),
    /// The engine's judgement; follows the record that caused it.
    Finding(Box<Finding>),
    /// Last record.
    Stop(Stop),
}
