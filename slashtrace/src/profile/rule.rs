use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{SessionRule, SessionSource};

/// A worker rule: which processes are workers, and what is known of them. It compares whole argv
/// tokens, never a part of one, and never a shell's idea of a command line.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerRule {
    /// Its name; see [`Self::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Consecutive tokens somewhere in `argv[1..]`. `-m` and the token after it
    /// may be glued together: `-mpkg.mod`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
    /// The last part of `argv[0]`, or of the file that an interpreter runs: `gopls`, `c03-mcp` of
    /// `node /app/node_modules/.bin/c03-mcp`, `pkg.mod` of `python -m pkg.mod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Who has one of these tokens in `argv[1..]` is no worker. `--type=*` stands for each value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Where the session's key is read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionRule>,
    /// As `session = { flag = … }`, for a flag that stands behind the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_flag: Option<String>,
    /// Flag, behind the tokens, whose value is the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_flag: Option<String>,
    /// How a worker is spoken to. Without it nothing is excluded: see [`Self::channel`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// What there is one worker per; see [`Self::one_per`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_per: Option<OnePer>,
    /// Programs that only start the worker, besides the usual ones: `["my-wrapper", "task run"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launchers: Vec<String>,
}

impl WorkerRule {
    /// Its name: as the profile says, or else its program's, or else `worker`.
    pub fn name(&self) -> &str {
        self.name.as_deref().or(self.program.as_deref()).unwrap_or("worker")
    }

    /// Where its session's key is read from, in this order; none if it has no session.
    pub fn session(&self) -> Vec<SessionSource> {
        match (&self.session, &self.session_flag) {
            (Some(rule), _) => rule.0.clone(),
            (None, Some(flag)) => vec![SessionSource::Flag(flag.clone())],
            (None, None) => Vec::new(),
        }
    }

    /// Whether its workers have a session.
    pub fn has_session(&self) -> bool {
        self.session_flag.is_some() || self.session.as_ref().is_some_and(|it| !it.0.is_empty())
    }

    /// How its workers are spoken to, if the profile says so. `None` means that each way has to be
    /// excluded before a worker may be called unused.
    pub fn channel(&self) -> Option<Channel> {
        self.channel
    }

    /// What there is supposed to be one worker per. Two of a session (or of a gateway) are
    /// duplicates; of workers that are `none`, any number is fine.
    pub fn one_per(&self) -> OnePer {
        let default = if self.has_session() { OnePer::Session } else { OnePer::Gateway };
        self.one_per.unwrap_or(default)
    }

    /// The titles that its workers write over their argv.
    pub(super) fn titles(&self) -> impl Iterator<Item = &str> {
        let sources = self.session.iter().flat_map(|rule| &rule.0);
        sources.filter_map(|source| match source {
            SessionSource::Title(title) => Some(title.as_str()),
            _ => None,
        })
    }

    /// The token sequences that match: its tokens, with each `-m` glued to the token after it or
    /// not. None if it has no tokens.
    pub fn spellings(&self) -> Vec<Vec<String>> {
        if self.tokens.is_empty() { Vec::new() } else { spellings(&self.tokens) }
    }
}

fn spellings(tokens: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = tokens.split_first() else { return vec![Vec::new()] };
    let before = |token: String, behind: &[String]| {
        spellings(behind).into_iter().map(move |mut spelling| {
            spelling.insert(0, token.clone());
            spelling
        })
    };
    let mut all: Vec<Vec<String>> = before(first.clone(), rest).collect();
    if let Some((module, behind)) = rest.split_first().filter(|_| first == "-m") {
        all.extend(before(format!("-m{module}"), behind));
    }
    all
}

/// How a worker is spoken to: what has to be closed before nobody can use it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// Calls come in on its stdin; whoever can write to that can use it.
    Stdin,
    /// Calls come in on a socket that it listens on or is connected to; its stdin proves nothing.
    Socket,
    /// It got its task at its start (in argv, or on a stdin that was closed), and is in use while it
    /// works.
    Task,
}

/// What there is supposed to be one worker per.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnePer {
    /// One for each session of a gateway.
    Session,
    /// One for each gateway.
    Gateway,
    /// Any number: none is ever a duplicate.
    None,
}

/// Schema of a list of worker rules that is written as a table where there is one.
pub(super) fn rules_schema(generator: &mut SchemaGenerator) -> Schema {
    let one = generator.subschema_for::<WorkerRule>();
    json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
}
