use std::{collections::BTreeSet, fmt};

use serde::Deserialize;
use serde_spanned::Spanned;

use super::{
    Graces, Helper, OpenerRule, Profile, Project, Span, TerminalRule, Windows, WorkerRule,
};

/// The built-in profile for NousResearch/hermes-agent.
pub const BUILTIN_HERMES: &str = include_str!("hermes.toml");

/// Tokens a worker rule may have. The kernel programs compare this many.
const TOKENS_MAX: usize = 8;
/// Length of one token, bytes.
const TOKEN_BYTES_MAX: usize = 64;
/// Length of all tokens with their NULs, bytes: they have to fit into what is searched of an argv.
const TOKENS_BYTES_MAX: usize = 256;
/// Length of the names in a profile, bytes.
const NAME_BYTES_MAX: usize = 64;
/// Known helpers a profile may list.
const HELPERS_MAX: usize = 64;
/// Length of a text in `project`, bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Known issues, and hypotheses, that a profile may list.
const PROJECT_MAX: usize = 32;
/// The longest grace or window: beyond it a judgement would never come.
const SPAN_MAX: Span = Span::from_secs(366 * 24 * 3600);

/// Why a profile was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParseError {
    /// Line in the file, from 1, where one can be named.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for ParseError {}

impl Profile {
    /// Parses and checks a profile.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ParseError {
            line: error.span().map(|span| line_of(text, span.start)),
            reason: error.message().trim_end().to_owned(),
        })?;
        raw.check().map_err(|refusal| ParseError {
            line: Some(line_of(text, refusal.at)),
            reason: refusal.reason,
        })
    }

    /// Checks a profile that did not come from a file (the one in a `start` record) by the same
    /// rules.
    pub fn check(&self) -> Result<(), ParseError> {
        let refused = |reason: String| ParseError { line: None, reason };
        let text = toml::to_string(self).map_err(|error| refused(error.to_string()))?;
        Self::parse(&text).map(drop).map_err(|error| refused(error.reason))
    }

    /// The built-in profile for hermes.
    pub fn hermes() -> Self {
        Self::parse(BUILTIN_HERMES).expect("the built-in profile is checked by a test")
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// What is wrong, and at which byte.
struct Refusal {
    at: usize,
    reason: String,
}

fn refuse<T>(at: &Spanned<T>, reason: impl Into<String>) -> Refusal {
    Refusal { at: at.span().start, reason: reason.into() }
}

/// [`Profile`] with the place of every value, so that each refusal can name its line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    #[serde(default)]
    description: String,
    worker: RawWorkerRule,
    #[serde(default)]
    graces: RawGraces,
    #[serde(default)]
    windows: RawWindows,
    terminal: Option<RawTerminalRule>,
    #[serde(default)]
    helpers: Vec<RawHelper>,
    project: Option<Spanned<Project>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkerRule {
    tokens: Spanned<Vec<Spanned<String>>>,
    session_flag: Spanned<String>,
    model_flag: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTerminalRule {
    session_file_env: Spanned<String>,
    session_key: Spanned<String>,
    opener: Option<RawOpenerRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOpenerRule {
    tokens: Spanned<Vec<Spanned<String>>>,
    inner_gateway: Spanned<Vec<Spanned<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGraces {
    overlap: Option<Spanned<Span>>,
    orphan: Option<Spanned<Span>>,
    terminal: Option<Spanned<Span>>,
    client: Option<Spanned<Span>>,
    unreachable: Option<Spanned<Span>>,
    zombie: Option<Spanned<Span>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWindows {
    churn: Option<Spanned<Span>>,
    accumulation: Option<Spanned<Span>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHelper {
    name: Spanned<String>,
    file: Spanned<String>,
    grace: Spanned<Span>,
}

impl Raw {
    fn check(self) -> Result<Profile, Refusal> {
        check_name("name", &self.name)?;
        Ok(Profile {
            name: self.name.into_inner(),
            description: self.description,
            worker: self.worker.check()?,
            graces: self.graces.check()?,
            windows: self.windows.check()?,
            terminal: self.terminal.map(RawTerminalRule::check).transpose()?,
            helpers: check_helpers(self.helpers)?,
            project: self.project.map(check_project).transpose()?,
        })
    }
}

impl RawWorkerRule {
    fn check(self) -> Result<WorkerRule, Refusal> {
        check_tokens("tokens", &self.tokens)?;
        check_flag("session_flag", &self.session_flag)?;
        if let Some(flag) = &self.model_flag {
            check_flag("model_flag", flag)?;
            if flag.get_ref() == self.session_flag.get_ref() {
                return Err(refuse(flag, "`model_flag` is the same as `session_flag`"));
            }
        }
        Ok(WorkerRule {
            tokens: self.tokens.into_inner().into_iter().map(Spanned::into_inner).collect(),
            session_flag: self.session_flag.into_inner(),
            model_flag: self.model_flag.map(Spanned::into_inner),
        })
    }
}

impl RawTerminalRule {
    fn check(self) -> Result<TerminalRule, Refusal> {
        check_name("session_file_env", &self.session_file_env)?;
        check_name("session_key", &self.session_key)?;
        Ok(TerminalRule {
            session_file_env: self.session_file_env.into_inner(),
            session_key: self.session_key.into_inner(),
            opener: self.opener.map(RawOpenerRule::check).transpose()?,
        })
    }
}

impl RawOpenerRule {
    fn check(self) -> Result<OpenerRule, Refusal> {
        check_tokens("tokens", &self.tokens)?;
        check_tokens("inner_gateway", &self.inner_gateway)?;
        let plain = |tokens: Spanned<Vec<Spanned<String>>>| {
            tokens.into_inner().into_iter().map(Spanned::into_inner).collect()
        };
        Ok(OpenerRule { tokens: plain(self.tokens), inner_gateway: plain(self.inner_gateway) })
    }
}

impl RawGraces {
    fn check(self) -> Result<Graces, Refusal> {
        let default = Graces::default();
        Ok(Graces {
            // Zero is a choice here: a gateway that promises never to overlap can be held to it.
            overlap: bounded("overlap", self.overlap, default.overlap)?,
            // For these zero is none: between cause and effect there is always a moment.
            orphan: positive("orphan", self.orphan, default.orphan)?,
            // Zero: a terminal that closed does not come back.
            terminal: bounded("terminal", self.terminal, default.terminal)?,
            client: positive("client", self.client, default.client)?,
            unreachable: positive("unreachable", self.unreachable, default.unreachable)?,
            zombie: positive("zombie", self.zombie, default.zombie)?,
        })
    }
}

impl RawWindows {
    fn check(self) -> Result<Windows, Refusal> {
        let default = Windows::default();
        Ok(Windows {
            churn: positive("churn", self.churn, default.churn)?,
            accumulation: positive("accumulation", self.accumulation, default.accumulation)?,
        })
    }
}

fn check_helpers(raw: Vec<RawHelper>) -> Result<Vec<Helper>, Refusal> {
    let mut names = BTreeSet::new();
    let mut helpers = Vec::with_capacity(raw.len());
    for helper in raw {
        check_name("name", &helper.name)?;
        if !names.insert(helper.name.get_ref().clone()) {
            let reason = format!("there are two helpers named `{}`", helper.name.get_ref());
            return Err(refuse(&helper.name, reason));
        }
        if names.len() > HELPERS_MAX {
            return Err(refuse(&helper.name, format!("more than {HELPERS_MAX} helpers")));
        }
        let file = helper.file.get_ref();
        if file.is_empty() || file.contains(['/', '\0']) || file.len() > NAME_BYTES_MAX {
            let reason = format!(
                "`file` is the last component of a path, 1 to {NAME_BYTES_MAX} bytes without `/`"
            );
            return Err(refuse(&helper.file, reason));
        }
        let default = *helper.grace.get_ref();
        helpers.push(Helper {
            name: helper.name.into_inner(),
            file: helper.file.into_inner(),
            grace: positive("grace", Some(helper.grace), default)?,
        });
    }
    Ok(helpers)
}

/// Texts of a project end up in reports, and its addresses in links.
fn check_project(project: Spanned<Project>) -> Result<Project, Refusal> {
    let told = project.get_ref();
    let known = told.known.iter().flat_map(|known| [Some(&known.title), known.fixed_in.as_ref()]);
    let guessed = told.hypotheses.iter().flat_map(|it| it.places.iter().chain([&it.claim]));
    let mut texts = known
        .flatten()
        .chain(guessed)
        .chain([&told.name, &told.issues])
        .chain(told.package.as_ref());
    let refused = texts.any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX);
    drop(texts);
    if refused {
        let reason = format!("a text of `project` is empty or over {TEXT_BYTES_MAX} bytes long");
        return Err(refuse(&project, reason));
    }
    if !told.issues.starts_with("https://") {
        return Err(refuse(&project, "`issues` must begin with `https://`"));
    }
    if told.known.len() > PROJECT_MAX || told.hypotheses.len() > PROJECT_MAX {
        return Err(refuse(&project, format!("more than {PROJECT_MAX} of a kind in `project`")));
    }
    Ok(project.into_inner())
}

/// Names end up in file names, metrics and tables.
fn check_name(key: &str, name: &Spanned<String>) -> Result<(), Refusal> {
    let text = name.get_ref();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(refuse(name, format!("`{key}` must have 1 to {NAME_BYTES_MAX} characters")));
    }
    if text.starts_with('.') || !text.bytes().all(allowed) {
        let reason = format!(
            "`{key}` may have letters, digits, `-`, `_` and `.` only, and not begin with `.`"
        );
        return Err(refuse(name, reason));
    }
    Ok(())
}

/// A token that an argv can have.
fn check_tokens(name: &str, at: &Spanned<Vec<Spanned<String>>>) -> Result<(), Refusal> {
    let tokens = at.get_ref();
    if tokens.is_empty() {
        return Err(refuse(at, format!("`{name}` is empty: it would match every process")));
    }
    if tokens.len() > TOKENS_MAX {
        let count = tokens.len();
        return Err(refuse(at, format!("`{name}` has {count}; at most {TOKENS_MAX} are compared")));
    }
    tokens.iter().try_for_each(check_token)?;
    let bytes: usize = tokens.iter().map(|token| token.get_ref().len() + 1).sum();
    if bytes > TOKENS_BYTES_MAX {
        let reason = format!(
            "`{name}` is {bytes} bytes long in argv; at most {TOKENS_BYTES_MAX} are searched"
        );
        return Err(refuse(at, reason));
    }
    Ok(())
}

fn check_token(token: &Spanned<String>) -> Result<(), Refusal> {
    let text = token.get_ref();
    if text.is_empty() {
        return Err(refuse(token, "a token is empty"));
    }
    if text.contains('\0') {
        return Err(refuse(token, "a token has a NUL, which ends a token in argv"));
    }
    if text.len() > TOKEN_BYTES_MAX {
        let bytes = text.len();
        let reason =
            format!("a token is {bytes} bytes long; at most {TOKEN_BYTES_MAX} are compared");
        return Err(refuse(token, reason));
    }
    Ok(())
}

fn check_flag(key: &str, flag: &Spanned<String>) -> Result<(), Refusal> {
    let text = flag.get_ref();
    if !text.starts_with('-') || text.trim_start_matches('-').is_empty() {
        return Err(refuse(flag, format!("`{key}` must be a flag such as `--name`")));
    }
    if text.len() > TOKEN_BYTES_MAX || text.contains(['=', '\0', ' ']) {
        let reason = format!(
            "`{key}` must be at most {TOKEN_BYTES_MAX} bytes long, without `=`, space and NUL"
        );
        return Err(refuse(flag, reason));
    }
    Ok(())
}

fn bounded(key: &str, span: Option<Spanned<Span>>, default: Span) -> Result<Span, Refusal> {
    match span {
        Some(span) if *span.get_ref() > SPAN_MAX => {
            Err(refuse(&span, format!("`{key}` is longer than a year")))
        }
        Some(span) => Ok(span.into_inner()),
        None => Ok(default),
    }
}

fn positive(key: &str, span: Option<Spanned<Span>>, default: Span) -> Result<Span, Refusal> {
    match span {
        Some(span) if span.get_ref().as_ns() == 0 => {
            Err(refuse(&span, format!("`{key}` must be longer than zero")))
        }
        span => bounded(key, span, default),
    }
}

#[cfg(test)]
mod tests;
