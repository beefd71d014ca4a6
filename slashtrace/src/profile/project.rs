//! What a profile knows of the program's project: for reports to its maintainers, never for judging.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::model::Kind;

/// The program's project.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// `NousResearch/hermes-agent`.
    pub name: String,
    /// Name of its Python distribution, by which its version is found: `hermes-agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// What stands before an issue's number in its address.
    pub issues: String,
    /// Issues that are known, by what is seen of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<KnownIssue>,
    /// Which code path may be at fault, and what speaks for and against each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypotheses: Vec<Hypothesis>,
}

/// A known issue and its signature.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    /// Its number.
    pub issue: u32,
    /// What it is about, short.
    pub title: String,
    /// Signs any of which it shows itself by.
    pub signs: Vec<Sign>,
    /// First version without it that was looked at; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_in: Option<String>,
}

/// A code path that may be at fault.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    /// What it says, as a sentence without its full stop.
    pub claim: String,
    /// Signs that speak for it.
    pub supported_by: Vec<Sign>,
    /// Signs that speak against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuted_by: Vec<Sign>,
    /// Where to look, `path: what`.
    pub places: Vec<String>,
}

/// What a recording shows: a finding of a kind, or more than that.
#[derive(
    Clone,
    Copy,
    Debug,
    Deserialize,
    Eq,
    Hash,
    IntoStaticStr,
    JsonSchema,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Sign {
    /// The finding of this name.
    SpawnPerCall,
    /// Two workers of a group that were spawned within 2 s of each other stayed.
    DuplicatesTogether,
    /// Two workers of a group that were spawned further apart stayed.
    DuplicatesApart,
    /// The finding of this name.
    LostWorker,
    /// The finding of this name.
    LostAtClose,
    /// The finding of this name.
    RespawnChurn,
    /// The finding of this name.
    GatewayOrphan,
    /// The finding of this name.
    LauncherOrphan,
    /// The finding of this name.
    TerminalOrphan,
    /// The finding of this name.
    Abandoned,
    /// The finding of this name.
    Unreachable,
    /// The finding of this name.
    LeftoverChildren,
    /// The finding of this name.
    Zombie,
    /// A worker served two calls or more, counted in the kernel.
    WorkerReused,
}

impl Sign {
    /// The sign that a finding of this kind is, where it needs nothing else.
    pub fn of(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::SpawnPerCall => Self::SpawnPerCall,
            Kind::LostWorker => Self::LostWorker,
            Kind::LostAtClose => Self::LostAtClose,
            Kind::RespawnChurn => Self::RespawnChurn,
            Kind::GatewayOrphan => Self::GatewayOrphan,
            Kind::LauncherOrphan => Self::LauncherOrphan,
            Kind::TerminalOrphan => Self::TerminalOrphan,
            Kind::Abandoned => Self::Abandoned,
            Kind::Unreachable => Self::Unreachable,
            Kind::LeftoverChildren => Self::LeftoverChildren,
            Kind::Zombie => Self::Zombie,
            Kind::DuplicateWorker | Kind::Accumulation | Kind::ReaperStopped => return None,
        })
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::DuplicatesTogether => "duplicates spawned within 2 s of each other",
            Self::DuplicatesApart => "duplicates spawned more than 2 s apart",
            Self::WorkerReused => "a worker that served two calls or more",
            finding => finding.into(),
        }
    }
}
