use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use super::{Confidence, Identity, Kind};

/// What the reaper may do about findings.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    EnumString,
    Eq,
    Hash,
    JsonSchema,
    PartialEq,
    Serialize,
    VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Mode {
    /// Nothing: it does not even decide.
    #[default]
    Observe,
    /// It decides and checks, and writes what it would do.
    DryRun,
    /// It ends workers.
    Enforce,
}

/// One step of the reaper.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// In `dry-run`: every check was passed, and SIGTERM would be sent now.
    WouldEnd,
    /// A check at the moment of acting said no: nothing was sent.
    Refuse,
    /// SIGTERM.
    Terminate,
    /// SIGKILL, because it outlived `term_grace`.
    Kill,
    /// What came of it.
    Result,
    /// A circuit breaker opened: no more of that user's workers is ended until it closes.
    Stop,
    /// It closed: after a while by itself, or because somebody asked for it.
    Resume,
}

/// Whether a step is about to be done, or was.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Written before it is done.
    Before,
    /// Written after it was done.
    After,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The signal was sent.
    Sent,
    /// The worker ended.
    Exited,
    /// It lives on after SIGKILL (it is in an uninterruptible sleep).
    Survived,
    /// It had ended already.
    Gone,
    /// The finding was withdrawn after SIGTERM, so SIGKILL was not sent.
    Withdrawn,
    /// A check said no; `detail` says which.
    Refused,
    /// The kernel said no; `detail` says why.
    Failed,
}

/// A step of the reaper: written before and after it is done.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Action {
    /// The worker; null for a circuit breaker.
    pub worker: Option<Identity>,
    /// Whose breaker it is (`stop` and `resume`), a real user id; earlier versions had one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The step.
    pub step: Step,
    /// Before or after it.
    pub phase: Phase,
    /// The finding that justifies it (its `id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Its confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// Records that led to it: the finding's last, for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<u64>,
    /// What came of it (`phase` is `after`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// From SIGTERM to its end, ms (`result`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Processes below it that were there before the first signal (`terminate`), or that are still
    /// there (`result`). None of them is signalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descendants: Vec<Identity>,
    /// One sentence for a person.
    pub detail: String,
}
