//! The rows of a report: a session under a gateway each, and their sum.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    model::{Confidence, Identity, Kind},
    roster::Reasons,
};

/// A gateway as a report names it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Gateway {
    /// Who it is.
    #[serde(flatten)]
    pub id: Identity,
    /// `comm`, escaped.
    pub comm: String,
    /// Known only as the parent of now, which may have adopted its workers.
    pub presumed: bool,
    /// It exited.
    pub gone: bool,
}

/// One session under one gateway.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Its gateway; null where who forked its workers is unknown.
    pub gateway: Option<Gateway>,
    /// Its key; null where argv named none.
    pub session: Option<String>,
    /// Workers that live at the end.
    pub live: u64,
    /// Of these, those whose memory was sampled.
    pub sampled: u64,
    /// Of those that live, workers that an open finding shows to be unused.
    pub stale: u64,
    /// Most that were stale at once.
    pub most_stale: u64,
    /// Most that lived at once.
    pub most_live: u64,
    /// Workers ever, those from before included.
    pub spawned: u64,
    /// Of these, there before the recording.
    pub inherited: u64,
    /// Workers that ended.
    pub exited: u64,
    /// When the oldest live one was spawned.
    pub oldest: Option<Timestamp>,
    /// How long it lives by the last record, ms.
    pub oldest_age_ms: Option<u64>,
    /// When the oldest was that was stale when most were.
    pub oldest_stale: Option<Timestamp>,
    /// Resident memory of the live ones, KiB, of those that were sampled.
    pub rss_kib: u64,
    /// Calls that they served; the least that it can be unless `calls_exact`.
    pub calls: u64,
    /// Whether `calls` is exact.
    pub calls_exact: bool,
    /// Kinds of its findings, open at the end or not, each once.
    pub findings: Vec<Kind>,
    /// Of these, the ones that are open at the end.
    pub open: Vec<OpenKind>,
    /// The ones that were open and are not.
    pub was: Vec<Kind>,
    /// Workers that could not be judged, or not in full, by why.
    pub unjudged: Reasons,
}

/// Findings of one kind that are open in a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct OpenKind {
    /// The kind.
    pub kind: Kind,
    /// The surest of them.
    pub confidence: Confidence,
    /// How many.
    pub findings: u64,
}

/// Findings of one kind that are open at the end.
#[derive(Clone, Debug, Serialize)]
pub struct StillOpen {
    /// The kind.
    pub kind: Kind,
    /// How many.
    pub findings: u64,
    /// What the first ones say now, by their ids.
    pub first: Vec<Sentence>,
}

/// What an open finding says.
#[derive(Clone, Debug, Serialize)]
pub struct Sentence {
    /// How sure it is now.
    pub confidence: Confidence,
    /// What was seen, escaped.
    pub text: String,
}

/// Sums over the sessions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Total {
    /// Sessions.
    pub sessions: u64,
    /// Workers that live at the end.
    pub live: u64,
    /// Of these, those whose memory was sampled.
    pub sampled: u64,
    /// Of those that live, stale ones.
    pub stale: u64,
    /// Workers ever.
    pub spawned: u64,
    /// Of these, there before the recording.
    pub inherited: u64,
    /// Workers that ended.
    pub exited: u64,
    /// Most that lived at once.
    pub most_live: u64,
    /// How long the oldest that lives does by the last record, ms.
    pub oldest_age_ms: Option<u64>,
    /// Calls that were served; the least that it can be unless `calls_exact`.
    pub calls: u64,
    /// Whether `calls` is exact.
    pub calls_exact: bool,
    /// Resident memory of the live ones, KiB.
    pub rss_kib: u64,
    /// That of the stale ones, KiB.
    pub stale_rss_kib: u64,
    /// Most that were stale at once.
    pub most_stale: u64,
    /// Resident memory of these then, KiB.
    pub most_stale_rss_kib: u64,
}
