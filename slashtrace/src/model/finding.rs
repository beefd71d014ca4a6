use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::{Identity, ParentSource, Terminal};

/// A named leak pattern. The names are part of the format.
#[derive(
    Clone,
    Copy,
    Debug,
    Deserialize,
    Display,
    EnumString,
    Eq,
    Hash,
    IntoStaticStr,
    JsonSchema,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A new worker for each call while the earlier ones stay.
    SpawnPerCall,
    /// Two or more live workers in a group past the overlap grace.
    DuplicateWorker,
    /// A duplicate that has served nothing while a sibling serves.
    LostWorker,
    /// What stayed of a pair of one session when its gateway ended the other, and was asked nothing
    /// since.
    LostAtClose,
    /// Workers of a group replaced again and again, without overlap: a cost, not a leak.
    RespawnChurn,
    /// Its gateway exited and it outlives the orphan grace.
    GatewayOrphan,
    /// What launched it ended and it lives on, under a gateway that lives.
    LauncherOrphan,
    /// Its session's terminal closed and it outlives the terminal grace.
    TerminalOrphan,
    /// Idle, and its gateway has had no client for the client grace.
    Abandoned,
    /// No other process holds the write end of its stdin.
    Unreachable,
    /// The worker exited, descendants of it outlive the orphan grace.
    LeftoverChildren,
    /// Exited, and not reaped by its parent.
    Zombie,
    /// Surplus workers of a gateway grow over the window.
    Accumulation,
    /// The reaper's circuit breaker opened: about slashtrace itself.
    ReaperStopped,
}

impl Kind {
    /// Every kind, in the order in which they are judged.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in the format.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it names a leak: `respawn-churn` is a cost, `reaper-stopped` is about slashtrace.
    pub const fn is_leak(self) -> bool {
        !matches!(self, Self::RespawnChurn | Self::ReaperStopped)
    }
}

/// How surely a finding holds.
#[derive(
    Clone,
    Copy,
    Debug,
    Deserialize,
    Display,
    EnumString,
    Eq,
    Hash,
    JsonSchema,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Confidence {
    /// Consistent with what was seen; other readings are too.
    Weak,
    /// Seen, but one step of it by sampling or by reading /proc later.
    Strong,
    /// Every step was seen in the kernel.
    Proven,
}

/// Where a finding is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingState {
    /// It holds now and did not before.
    Opened,
    /// It still holds, for other workers or with another confidence.
    Updated,
    /// It no longer holds.
    Closed,
}

/// The gateway a finding is about.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct GatewayRef {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// `comm`, escaped.
    pub comm: String,
    /// First token of its argv, home masked; null where it could not be read.
    pub argv0: Option<String>,
    /// How it is known; `proc` means that it is only the current parent.
    pub how: ParentSource,
}

/// A worker as a finding names it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct FindingWorker {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// When it was spawned, RFC 3339.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub spawned_at: Timestamp,
    /// Resident set when last sampled, KiB; null if it never was.
    pub rss_kib: Option<u64>,
    /// Calls it served: exact with counted calls, else null.
    pub reads: Option<u64>,
    /// Whether the finding shows that nobody uses this very worker. Of two duplicates one may be in
    /// use: only one that this is true of may be ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unused: bool,
}

impl FindingWorker {
    /// The identity of the worker.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// When memory runs out if surplus workers go on growing as they do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Forecast {
    /// Growth of the surplus, workers per hour.
    pub workers_per_hour: u64,
    /// Growth of its resident memory, KiB per hour.
    pub kib_per_hour: u64,
    /// Seconds until `MemAvailable` is used up at that rate; null if memory was not sampled.
    pub exhausted_in_s: Option<u64>,
}

/// A named pattern, the observations that prove it, and how surely.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Finding {
    /// Stable name of this finding through its life.
    pub id: String,
    /// The pattern.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: FindingState,
    /// How surely it holds.
    pub confidence: Confidence,
    /// The gateway; null where who forked the worker is unknown.
    pub gateway: Option<GatewayRef>,
    /// The session key; null where the finding is not about one session.
    pub session: Option<String>,
    /// The workers it is about, oldest first.
    pub workers: Vec<FindingWorker>,
    /// The processes it is about where they are not workers (`leftover-children`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Identity>,
    /// How many processes it is about, where that is more than are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_total: Option<u64>,
    /// The terminal that closed (`terminal-orphan`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Forecast (`accumulation`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// Sequence numbers of the observations that prove it, ascending.
    pub because: Vec<u64>,
    /// One sentence for a person: what was seen.
    pub text: String,
}

impl Finding {
    /// How many processes it is about.
    pub fn processes_total(&self) -> usize {
        self.processes_total.map_or(self.processes.len(), |total| total as usize)
    }

    /// How many workers and processes it is about.
    pub fn named(&self) -> usize {
        self.workers.len() + self.processes_total()
    }
}
