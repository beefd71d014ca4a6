//! The rules that a profile must follow beyond its shape, wherever it came from. A refusal names
//! the value by its path, from which a file's line is found.

use std::collections::BTreeSet;

use super::{Helper, OpenerRule, Profile, Project, Span, TerminalRule, WorkerRule};

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

/// What is wrong, and with which value.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Path of the value: `helpers.1.name`.
    pub(super) at: String,
    /// What is wrong with it.
    pub(super) reason: String,
}

type Checked = Result<(), Refusal>;

fn refuse(at: &str, reason: impl Into<String>) -> Checked {
    Err(Refusal { at: at.to_owned(), reason: reason.into() })
}

/// The last part of a path, by which the user knows the value.
fn key(at: &str) -> &str {
    at.rsplit_once('.').map_or(at, |(_, key)| key)
}

/// Checks a profile in the order in which its values are documented.
pub(super) fn profile(profile: &Profile) -> Checked {
    name("name", &profile.name)?;
    worker(&profile.worker)?;
    let graces = &profile.graces;
    // Zero is a choice here: a gateway that promises never to overlap can be held to it.
    bounded("graces.overlap", graces.overlap)?;
    // For these zero is none: between cause and effect there is always a moment.
    positive("graces.orphan", graces.orphan)?;
    // Zero: a terminal that closed does not come back.
    bounded("graces.terminal", graces.terminal)?;
    positive("graces.client", graces.client)?;
    positive("graces.unreachable", graces.unreachable)?;
    positive("graces.zombie", graces.zombie)?;
    positive("windows.churn", profile.windows.churn)?;
    positive("windows.accumulation", profile.windows.accumulation)?;
    profile.terminal.as_ref().map_or(Ok(()), terminal)?;
    helpers(&profile.helpers)?;
    profile.project.as_ref().map_or(Ok(()), project)
}

fn worker(rule: &WorkerRule) -> Checked {
    tokens("worker.tokens", &rule.tokens)?;
    flag("worker.session_flag", &rule.session_flag)?;
    let Some(model) = &rule.model_flag else { return Ok(()) };
    flag("worker.model_flag", model)?;
    if *model == rule.session_flag {
        return refuse("worker.model_flag", "`model_flag` is the same as `session_flag`");
    }
    Ok(())
}

fn terminal(rule: &TerminalRule) -> Checked {
    name("terminal.session_file_env", &rule.session_file_env)?;
    name("terminal.session_key", &rule.session_key)?;
    if let Some(resume) = &rule.resume_env {
        name("terminal.resume_env", resume)?;
    }
    let Some(OpenerRule { tokens: own, inner_gateway }) = &rule.opener else { return Ok(()) };
    tokens("terminal.opener.tokens", own)?;
    tokens("terminal.opener.inner_gateway", inner_gateway)
}

fn helpers(helpers: &[Helper]) -> Checked {
    let mut names = BTreeSet::new();
    for (index, helper) in helpers.iter().enumerate() {
        let at = |key: &str| format!("helpers.{index}.{key}");
        name(&at("name"), &helper.name)?;
        if !names.insert(&helper.name) {
            return refuse(&at("name"), format!("there are two helpers named `{}`", helper.name));
        }
        if names.len() > HELPERS_MAX {
            return refuse(&at("name"), format!("more than {HELPERS_MAX} helpers"));
        }
        let file = &helper.file;
        if file.is_empty() || file.contains(['/', '\0']) || file.len() > NAME_BYTES_MAX {
            let reason = format!(
                "`file` is the last component of a path, 1 to {NAME_BYTES_MAX} bytes without `/`"
            );
            return refuse(&at("file"), reason);
        }
        positive(&at("grace"), helper.grace)?;
    }
    Ok(())
}

/// Texts of a project end up in reports, and its addresses in links.
fn project(project: &Project) -> Checked {
    text("project.name", &project.name)?;
    text("project.issues", &project.issues)?;
    project.package.as_ref().map_or(Ok(()), |package| text("project.package", package))?;
    for (index, known) in project.known.iter().enumerate() {
        let at = |key: &str| format!("project.known.{index}.{key}");
        text(&at("title"), &known.title)?;
        known.fixed_in.as_ref().map_or(Ok(()), |version| text(&at("fixed_in"), version))?;
    }
    for (index, hypothesis) in project.hypotheses.iter().enumerate() {
        let at = |key: &str| format!("project.hypotheses.{index}.{key}");
        text(&at("claim"), &hypothesis.claim)?;
        let places = hypothesis.places.iter().enumerate();
        for (place, what) in places {
            text(&at(&format!("places.{place}")), what)?;
        }
    }
    if !project.issues.starts_with("https://") {
        return refuse("project.issues", "`issues` must begin with `https://`");
    }
    if project.known.len() > PROJECT_MAX || project.hypotheses.len() > PROJECT_MAX {
        return refuse("project", format!("more than {PROJECT_MAX} of a kind in `project`"));
    }
    Ok(())
}

fn text(at: &str, text: &str) -> Checked {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        let reason = format!("a text of `project` is empty or over {TEXT_BYTES_MAX} bytes long");
        return refuse(at, reason);
    }
    Ok(())
}

/// Names end up in file names, metrics and tables.
fn name(at: &str, name: &str) -> Checked {
    let key = key(at);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return refuse(at, format!("`{key}` must have 1 to {NAME_BYTES_MAX} characters"));
    }
    if name.starts_with('.') || !name.bytes().all(allowed) {
        let reason = format!(
            "`{key}` may have letters, digits, `-`, `_` and `.` only, and not begin with `.`"
        );
        return refuse(at, reason);
    }
    Ok(())
}

/// Tokens that an argv can have.
fn tokens(at: &str, tokens: &[String]) -> Checked {
    let key = key(at);
    if tokens.is_empty() {
        return refuse(at, format!("`{key}` is empty: it would match every process"));
    }
    if tokens.len() > TOKENS_MAX {
        let count = tokens.len();
        return refuse(at, format!("`{key}` has {count}; at most {TOKENS_MAX} are compared"));
    }
    for (index, text) in tokens.iter().enumerate() {
        token(&format!("{at}.{index}"), text)?;
    }
    let bytes: usize = tokens.iter().map(|token| token.len() + 1).sum();
    if bytes > TOKENS_BYTES_MAX {
        let reason = format!(
            "`{key}` is {bytes} bytes long in argv; at most {TOKENS_BYTES_MAX} are searched"
        );
        return refuse(at, reason);
    }
    Ok(())
}

fn token(at: &str, token: &str) -> Checked {
    if token.is_empty() {
        return refuse(at, "a token is empty");
    }
    if token.contains('\0') {
        return refuse(at, "a token has a NUL, which ends a token in argv");
    }
    if token.len() > TOKEN_BYTES_MAX {
        let bytes = token.len();
        let reason =
            format!("a token is {bytes} bytes long; at most {TOKEN_BYTES_MAX} are compared");
        return refuse(at, reason);
    }
    Ok(())
}

fn flag(at: &str, flag: &str) -> Checked {
    let key = key(at);
    if !flag.starts_with('-') || flag.trim_start_matches('-').is_empty() {
        return refuse(at, format!("`{key}` must be a flag such as `--name`"));
    }
    if flag.len() > TOKEN_BYTES_MAX || flag.contains(['=', '\0', ' ']) {
        let reason = format!(
            "`{key}` must be at most {TOKEN_BYTES_MAX} bytes long, without `=`, space and NUL"
        );
        return refuse(at, reason);
    }
    Ok(())
}

fn bounded(at: &str, span: Span) -> Checked {
    if span > SPAN_MAX {
        return refuse(at, format!("`{}` is longer than a year", key(at)));
    }
    Ok(())
}

fn positive(at: &str, span: Span) -> Checked {
    if span.as_ns() == 0 {
        return refuse(at, format!("`{}` must be longer than zero", key(at)));
    }
    bounded(at, span)
}
