//! The report as data: what `report --format json` prints, and what every other format is made of.

mod sessions;

use jiff::Timestamp;
use serde::Serialize;

pub use sessions::{Gateway, OpenKind, Sentence, Session, StillOpen, Total};

use crate::{
    model::{
        Capability, Confidence, Forecast, Host, Identity, Kind, Memory, Program, Role, SensorKind,
    },
    roster::{Reasons, Unjudged},
};

/// Version of the report's JSON form, in `format`.
pub const REPORT_FORMAT: u32 = 1;

/// What a recording comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// Version of slashtrace that made the report.
    pub reported_by: String,
    /// The recording.
    pub recording: Recording,
    /// What ran as gateways, each different one once.
    pub programs: Vec<Program>,
    /// In two sentences.
    pub verdict: Verdict,
    /// One a gateway and session, by gateway, then session.
    pub sessions: Vec<Session>,
    /// The sum of the sessions.
    pub total: Total,
    /// Memory over the recording.
    pub memory: MemoryChange,
    /// Every finding that was ever open, surest and largest first.
    pub findings: Vec<Case>,
    /// The findings that are open at the end, by kind.
    pub open: Vec<StillOpen>,
    /// Which code path is at fault, as far as the findings say.
    pub hypotheses: Vec<Judged>,
    /// What happened, in order. When there is too much, what is about findings is kept.
    pub timeline: Vec<Event>,
    /// Events that were left out of `timeline`.
    pub timeline_omitted: u64,
    /// The processes when most workers lived.
    pub tree: Tree,
    /// Each worker: at most [`super::WORKERS_MAX`].
    pub workers: Vec<Life>,
    /// Workers that were left out of `workers`.
    pub workers_omitted: u64,
    /// Live workers and their memory over time.
    pub series: Vec<Point>,
    /// What the reaper did, if there was one.
    pub actions: Vec<Acted>,
    /// Workers that could not be judged at all.
    pub not_judged: u64,
    /// Workers that could be judged only in part: there before the recording, or still starting.
    pub judged_in_part: u64,
    /// Why, with how many that is.
    pub unjudged: Reasons,
    /// What could not be seen, one sentence each.
    pub not_seen: Vec<String>,
}

/// What was recorded, with what.
#[derive(Clone, Debug, Serialize)]
pub struct Recording {
    /// Version of slashtrace that recorded.
    pub recorded_by: String,
    /// Name of the profile.
    pub profile: String,
    /// The project's name, if the profile knows it.
    pub project: Option<String>,
    /// First record.
    pub began: Option<Timestamp>,
    /// Last record.
    pub ended: Option<Timestamp>,
    /// Between them, ms of the boot clock.
    pub lasted_ms: u64,
    /// Why it ended; null where the file was cut off.
    pub reason: Option<String>,
    /// Whether nothing is known to be missing.
    pub complete: bool,
    /// Events that are known to be missing.
    pub lost: u64,
    /// The machine.
    pub host: Option<Host>,
    /// The sensor set.
    pub sensor: Option<SensorKind>,
    /// What each part of it could do.
    pub capabilities: Vec<Capability>,
    /// Whether calls were counted in the kernel.
    pub calls_counted: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Workers leak.
    Leak,
    /// No leak, but a cost (`respawn-churn`).
    Cost,
    /// Workers were seen, all could be judged, and none leaks.
    Healthy,
    /// No leak was seen, and some workers could not be judged.
    NotJudged,
    /// No worker was seen.
    Nothing,
}

/// The verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub headline: String,
    /// What follows from it.
    pub detail: String,
}

/// Memory over the recording.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemoryChange {
    /// The machine's memory at the start.
    pub before: Option<Memory>,
    /// The last that was sampled.
    pub after: Option<Memory>,
    /// Most that the workers had in sum, KiB.
    pub workers_most_kib: u64,
    /// How fast workers pile up, and when memory runs out.
    pub growth: Option<Forecast>,
    /// How `growth` is known: `accumulation` (the finding), or `recording` (what was spawned and
    /// did not end, over the time recorded).
    pub growth_from: Option<&'static str>,
}

/// A finding over its whole life.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Its id in the evidence.
    pub id: String,
    /// The pattern.
    pub kind: Kind,
    /// The surest that it was.
    pub confidence: Confidence,
    /// Whether it is open at the end.
    pub open: bool,
    /// When it opened, ms since the recording began.
    pub opened_ms: u64,
    /// When it closed.
    pub closed_ms: Option<u64>,
    /// When it opened.
    pub opened: Timestamp,
    /// The session, if it is about one.
    pub session: Option<String>,
    /// The gateway.
    pub gateway: Option<Identity>,
    /// Workers that it named when it named most, oldest first.
    pub workers: Vec<Identity>,
    /// Of these, shown to be unused.
    pub unused: u64,
    /// What was seen, when it named most.
    pub text: String,
    /// Records that prove it, by sequence number.
    pub because: Vec<u64>,
    /// Known issues whose signs it shows.
    pub known: Vec<Known>,
}

/// A known issue of the project.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Known {
    /// Its number.
    pub issue: u32,
    /// Its address.
    pub url: String,
    /// What it is about.
    pub title: String,
    /// First version without it that was looked at.
    pub fixed_in: Option<String>,
}

/// What a recording says of a hypothesis.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    /// It speaks for it.
    Supports,
    /// It speaks against it.
    Refutes,
    /// Both: it happens, but not always.
    Mixed,
    /// Nothing that was seen speaks for or against it.
    Nothing,
}

/// A hypothesis, judged.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What it says.
    pub claim: String,
    /// Whether the recording speaks for it.
    pub says: Says,
    /// Why.
    pub because: String,
    /// Where to look, if it is supported.
    pub places: Vec<String>,
}

/// What kind of moment an event is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A worker was spawned.
    Spawn,
    /// A worker ended.
    Exit,
    /// A gateway ended.
    GatewayExit,
    /// A terminal was closed.
    TerminalClosed,
    /// A finding opened.
    FindingOpened,
    /// A finding closed.
    FindingClosed,
    /// The reaper acted.
    Action,
    /// Something was not seen.
    Gap,
}

/// A moment of the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// ms since the recording began.
    pub at_ms: u64,
    /// When.
    pub time: Timestamp,
    /// The record.
    pub seq: u64,
    /// What kind of moment.
    pub kind: Happening,
    /// The session, if it is about one.
    pub session: Option<String>,
    /// The worker or gateway, if it is about one.
    pub process: Option<Identity>,
    /// For people.
    pub text: String,
}

/// The processes at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tree {
    /// ms since the recording began.
    pub at_ms: u64,
    /// Parents before children.
    pub nodes: Vec<Node>,
    /// Processes that were left out.
    pub omitted: u64,
}

/// A process of the tree.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Steps below the topmost.
    pub depth: u32,
    /// Who it is.
    #[serde(flatten)]
    pub id: Identity,
    /// What it is to us.
    pub role: Role,
    /// `comm`, escaped.
    pub comm: String,
    /// Its arguments as far as they are shown; the first alone for anybody but a worker.
    pub argv: Vec<String>,
    /// The session (workers).
    pub session: Option<String>,
    /// Resident memory when last sampled, KiB.
    pub rss_kib: Option<u64>,
}

/// A worker's life.
#[derive(Clone, Debug, Serialize)]
pub struct Life {
    /// Who it is.
    #[serde(flatten)]
    pub id: Identity,
    /// Index into `sessions`.
    pub row: usize,
    /// When it was spawned or first seen, ms since the recording began.
    pub from_ms: u64,
    /// When it ended; null if it lives at the end.
    pub to_ms: Option<u64>,
    /// There before the recording.
    pub inherited: bool,
    /// How it ended: `SIGTERM from python(2800)`, `code 0`.
    pub end: Option<String>,
    /// When it was seen to serve, ms since the recording began; the last ones where it did often.
    pub calls_ms: Vec<u64>,
    /// Calls that it served, where they were counted.
    pub calls: Option<u64>,
    /// Resident memory when last sampled, KiB.
    pub rss_kib: Option<u64>,
    /// Index on devpts of its controlling terminal.
    pub terminal: Option<u32>,
    /// Findings that named it, by index into `findings`.
    pub findings: Vec<usize>,
    /// An open finding shows it to be unused.
    pub stale: bool,
    /// Why it could not be judged, or not in full; null if it was.
    pub unjudged: Option<Unjudged>,
}

/// Live workers at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// ms since the recording began.
    pub at_ms: u64,
    /// Workers that live.
    pub live: u64,
    /// Their resident memory, KiB.
    pub rss_kib: u64,
    /// The machine's available memory, KiB, where it was sampled.
    pub available_kib: Option<u64>,
}

/// What the reaper did.
#[derive(Clone, Debug, Serialize)]
pub struct Acted {
    /// ms since the recording began.
    pub at_ms: u64,
    /// The record.
    pub seq: u64,
    /// The worker.
    pub worker: Option<Identity>,
    /// For people.
    pub text: String,
}
