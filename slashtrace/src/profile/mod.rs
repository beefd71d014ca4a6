//! Profiles as data: which processes are workers of a program, how to read session and model from
//! their argv, how long is too long. Parsed from TOML, carried whole in the evidence.
//! May touch: `model`'s plain data and text it is handed; never a file, a clock or /proc.

mod check;
mod launcher;
mod matching;
mod parse;
mod program;
mod project;
mod rule;
mod session;
mod span;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use matching::{KeyPlace, WorkerMatch, tokens_of};
pub use parse::{BUILTIN_HERMES, Excerpt, ParseError};
pub use project::{Hypothesis, KnownIssue, Project, Sign};
pub use rule::{Channel, OnePer, WorkerRule};
pub use session::{SessionRule, SessionSource};
pub use span::Span;

/// One program whose workers are watched.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name of the profile: `hermes`.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What a worker is: the first rule that matches holds. A table `[worker]`, or several
    /// `[[worker]]`.
    #[serde(rename = "worker", with = "session::one_or_many")]
    #[schemars(schema_with = "rule::rules_schema")]
    pub workers: Vec<WorkerRule>,
    /// How long a state may last before it is a finding.
    #[serde(default)]
    pub graces: Graces,
    /// Over which time patterns are looked for.
    #[serde(default)]
    pub windows: Windows,
    /// How a terminal's process names the session that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalRule>,
    /// Children of workers that are known and expected to end by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<Helper>,
    /// What is known of the program's project, for reports to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
}

impl Profile {
    /// The rule that a worker matched, by the name that its `spawn` record has; without a name, the
    /// only one, or the first.
    pub fn rule(&self, name: Option<&str>) -> &WorkerRule {
        let named = name.and_then(|name| self.workers.iter().find(|rule| rule.name() == name));
        named.unwrap_or(&self.workers[0])
    }

    /// The name of a rule as a `spawn` record has it: none where there is one rule.
    pub fn name_of(&self, rule: &WorkerRule) -> Option<String> {
        (self.workers.len() > 1).then(|| rule.name().to_owned())
    }
}

/// How a terminal's process (the session leader on a PTY) names the session that it shows: a JSON
/// file whose path is in its environment.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalRule {
    /// Environment variable with the path: `HERMES_TUI_ACTIVE_SESSION_FILE`. No other is read.
    pub session_file_env: String,
    /// Key in the file's JSON object: `session_id`.
    pub session_key: String,
    /// Environment variable with the session that it was started to show: `HERMES_TUI_RESUME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_env: Option<String>,
    /// Who opens terminals for sessions above their gateways. Without it, only a gateway itself is
    /// known to do so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opener: Option<OpenerRule>,
}

/// A program that opens a terminal for each session, and has a gateway of its own run in it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OpenerRule {
    /// Tokens that stand one behind the other in its `argv[1..]`: `dashboard`.
    pub tokens: Vec<String>,
    /// The same of the gateway: `-m tui_gateway.entry`. It serves the terminal in which it runs, and
    /// nothing else: one that also serves others may be meant to outlive the terminal.
    pub inner_gateway: Vec<String>,
}

/// How long a state may last before it is a finding.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Graces {
    /// Two live workers in one group: a restart overlaps for a moment. Default 5 s.
    pub overlap: Span,
    /// A worker whose gateway exited, or a child whose worker exited. Default 10 s.
    pub orphan: Span,
    /// A worker whose session's terminal closed. Zero is a choice. Default 30 s.
    pub terminal: Span,
    /// An idle worker whose gateway has no client connected. Default 30 min.
    pub client: Span,
    /// A worker whose stdin nobody can write to: it needs a moment to read EOF. Default 10 s.
    pub unreachable: Span,
    /// A process that exited and was not reaped. Default 60 s.
    pub zombie: Span,
}

impl Default for Graces {
    fn default() -> Self {
        Self {
            overlap: Span::from_secs(5),
            orphan: Span::from_secs(10),
            terminal: Span::from_secs(30),
            client: Span::from_secs(1800),
            unreachable: Span::from_secs(10),
            zombie: Span::from_secs(60),
        }
    }
}

/// Over which time patterns are looked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Windows {
    /// Spawns of one group counted for `respawn-churn`. Default 10 min.
    pub churn: Span,
    /// Growth of a gateway's surplus for `accumulation`. Default 1 h.
    pub accumulation: Span,
}

impl Default for Windows {
    fn default() -> Self {
        Self { churn: Span::from_secs(600), accumulation: Span::from_secs(3600) }
    }
}

/// A child of workers that is known and expected to end by itself some time after its worker.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Helper {
    /// Name for people: `mcp-watchdog`.
    pub name: String,
    /// Last path component of one of its argv tokens: `mcp_stdio_watchdog.py`.
    pub file: String,
    /// How long it may outlive its worker.
    pub grace: Span,
}
