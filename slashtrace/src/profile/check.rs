//! The rules that a profile must follow beyond its shape, wherever it came from. A refusal names
//! the value by its path, from which a file's line is found.

use std::collections::BTreeSet;

use super::{
    Helper, OnePer, OpenerRule, Profile, Project, SessionSource, Span, TerminalRule, WorkerRule,
    program,
};

/// Tokens a worker rule may have. The kernel programs compare this many.
const TOKENS_MAX: usize = 8;
/// Length of one token, bytes.
const TOKEN_BYTES_MAX: usize = 64;
/// Length of all tokens with their NULs, bytes: they have to fit into what is searched of an argv.
const TOKENS_BYTES_MAX: usize = slashtrace_ebpf::RULE_BYTES_MAX;
/// Worker rules a profile may have.
const RULES_MAX: usize = 16;
/// Tokens of all rules together, each spelling of a rule counted: the kernel programs have one bit
/// for each, and one for programs.
const PLACES_MAX: usize = 60;
/// Tokens of `exclude`, and entries of `launchers`.
const LIST_MAX: usize = 32;
/// A title has at least so many characters in front of its `*`: else it would fit any program.
const TITLE_MIN: usize = 3;
/// Highest `position`.
const POSITION_MAX: u32 = 64;
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
    workers(&profile.workers)?;
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

fn workers(rules: &[WorkerRule]) -> Checked {
    if rules.is_empty() {
        return refuse("worker", "there is no worker rule");
    }
    if rules.len() > RULES_MAX {
        return refuse(&format!("worker.{RULES_MAX}"), format!("more than {RULES_MAX} rules"));
    }
    for (index, rule) in rules.iter().enumerate() {
        worker(index, rule)?;
        for (earlier, other) in rules[..index].iter().enumerate() {
            distinct(index, rule, earlier, other)?;
        }
    }
    let places: usize = rules.iter().flat_map(WorkerRule::spellings).map(|it| it.len()).sum();
    if places > PLACES_MAX {
        let reason = format!(
            "the rules have {places} tokens in all (`-m` and a module count three times); at most \
             {PLACES_MAX} are compared"
        );
        return refuse("worker", reason);
    }
    Ok(())
}

/// What a rule must be next to one before it.
fn distinct(index: usize, rule: &WorkerRule, earlier: usize, other: &WorkerRule) -> Checked {
    let nth = earlier + 1;
    if hides(other, rule) {
        let at = if rule.tokens.is_empty() { "program" } else { "tokens" };
        let reason = format!(
            "this rule never matches: rule {nth}, before it, matches whatever it does; remove one, \
             or put this one first"
        );
        return refuse(&format!("worker.{index}.{at}"), reason);
    }
    if rule.name() == other.name() {
        let named = rule.name.as_ref().map_or("", |_| ".name");
        let reason = format!(
            "two rules are called `{}`: give each a `name` of its own (rule {nth} is the other)",
            rule.name()
        );
        return refuse(&format!("worker.{index}{named}"), reason);
    }
    Ok(())
}

/// Whether whatever `rule` matches is matched by `earlier`.
fn hides(earlier: &WorkerRule, rule: &WorkerRule) -> bool {
    let tokens = earlier.tokens.is_empty()
        || rule.tokens.windows(earlier.tokens.len()).any(|window| window == earlier.tokens);
    let program = earlier.program.is_none() || earlier.program == rule.program;
    tokens && program && earlier.exclude.iter().all(|token| rule.exclude.contains(token))
}

fn worker(index: usize, rule: &WorkerRule) -> Checked {
    let at = |key: &str| format!("worker.{index}.{key}");
    if let Some(own) = &rule.name {
        name(&at("name"), own)?;
    }
    if rule.tokens.is_empty() && rule.program.is_none() {
        // The same words for none at all as for an empty list.
        let reason = "neither `tokens` nor `program`: it would match every process";
        return refuse(&at("tokens"), reason);
    }
    if !rule.tokens.is_empty() {
        tokens(&at("tokens"), &rule.tokens)?;
    }
    if let Some(own) = &rule.program {
        program_name(&at("program"), own, rule)?;
    }
    exclude(index, rule)?;
    session(index, rule)?;
    if let Some(model) = &rule.model_flag {
        flag(&at("model_flag"), model)?;
        let is_session = |source| matches!(source, SessionSource::Flag(flag) if flag == *model);
        if rule.session().into_iter().any(is_session) {
            return refuse(&at("model_flag"), "`model_flag` is the same as the session's flag");
        }
    }
    if rule.one_per == Some(OnePer::Session) && !rule.has_session() {
        return refuse(&at("one_per"), "one per session, but the rule has no session");
    }
    launchers(&at("launchers"), &rule.launchers)
}

fn program_name(at: &str, own: &str, rule: &WorkerRule) -> Checked {
    if own.is_empty() || own.contains(['/', '\0']) || own.len() > TOKEN_BYTES_MAX {
        let reason = format!(
            "`program` is the last part of a path, 1 to {TOKEN_BYTES_MAX} bytes without `/`"
        );
        return refuse(at, reason);
    }
    if rule.tokens.is_empty() && program::is_interpreter(own.as_bytes()) {
        let reason = format!(
            "`{own}` runs other programs: it would match each of them; name the file that it runs, \
             or add `tokens`"
        );
        return refuse(at, reason);
    }
    Ok(())
}

fn exclude(index: usize, rule: &WorkerRule) -> Checked {
    let at = |nth: usize| format!("worker.{index}.exclude.{nth}");
    for (nth, excluded) in rule.exclude.iter().enumerate() {
        token(&at(nth), excluded)?;
        let start = excluded.strip_suffix('*').unwrap_or(excluded);
        if start.contains('*') || (start != excluded && !start.ends_with('=')) {
            let reason = "`*` stands for each value of a flag, at the end: `--type=*`";
            return refuse(&at(nth), reason);
        }
        if rule.tokens.contains(excluded) {
            let reason = "it is one of the rule's own tokens: the rule would never match";
            return refuse(&at(nth), reason);
        }
        if nth >= LIST_MAX {
            return refuse(&at(nth), format!("more than {LIST_MAX} in `exclude`"));
        }
    }
    Ok(())
}

fn session(index: usize, rule: &WorkerRule) -> Checked {
    let whole = format!("worker.{index}");
    let at = |key: &str| format!("{whole}.{key}");
    let sources = match (&rule.session, &rule.session_flag) {
        (Some(_), Some(_)) => {
            return refuse(
                &at("session_flag"),
                "`session_flag` and `session` both say where the key is: keep one of them",
            );
        }
        (None, None) => {
            return refuse(
                &whole,
                "the rule does not say where its session's key is: `session = { flag = \
                 \"--session\" }`, another place, or `session = \"none\"`",
            );
        }
        (None, Some(own)) => return flag(&at("session_flag"), own),
        (Some(sources), None) => &sources.0,
    };
    for (nth, source) in sources.iter().enumerate() {
        let at = |key: &str| at(&format!("session.{nth}.{key}"));
        if sources[..nth].contains(source) {
            return refuse(&at(source.key()), "this place is in the list twice");
        }
        match source {
            SessionSource::Flag(own) => {
                flag(&at("flag"), own)?;
                let place = rule.tokens.iter().rposition(|token| token == own);
                if let Some(behind) = place.and_then(|place| rule.tokens.get(place + 1)) {
                    let reason = format!("in the rule's tokens, `{behind}` always follows it");
                    return refuse(&at("flag"), reason);
                }
            }
            SessionSource::Position(position) => {
                if *position == 0 || *position > POSITION_MAX {
                    let reason = format!("positions are counted from 1, up to {POSITION_MAX}");
                    return refuse(&at("position"), reason);
                }
            }
            SessionSource::Env(own) => variable(&at("env"), own)?,
            SessionSource::Title(own) => title(&at("title"), own)?,
            SessionSource::Cwd => {}
        }
    }
    Ok(())
}

fn variable(at: &str, name: &str) -> Checked {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let digit = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || digit || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let reason = format!(
            "`env` is the name of a variable, 1 to {NAME_BYTES_MAX} letters, digits and `_`"
        );
        return refuse(at, reason);
    }
    Ok(())
}

fn title(at: &str, title: &str) -> Checked {
    if title.matches('*').count() != 1 || title.contains('\0') || title.len() > TEXT_BYTES_MAX {
        return refuse(at, "a title has one `*`, where the key is: `agent: worker [*]`");
    }
    let before = title.split('*').next().unwrap_or_default();
    if before.trim().len() < TITLE_MIN {
        let reason = format!(
            "it would fit the titles of other programs: at least {TITLE_MIN} characters must stand \
             in front of `*`"
        );
        return refuse(at, reason);
    }
    Ok(())
}

fn launchers(at: &str, launchers: &[String]) -> Checked {
    for (nth, launcher) in launchers.iter().enumerate() {
        let at = format!("{at}.{nth}");
        let words: Vec<&str> = launcher.split(' ').collect();
        let plain = |word: &&str| !word.is_empty() && !word.contains(['/', '\0', '\t', '\n']);
        if !words.iter().all(plain) || words.len() > 4 || launcher.len() > TEXT_BYTES_MAX {
            let reason = "a launcher is a program's name, with the words that follow and make it one: \
                          `npx`, `uv run`";
            return refuse(&at, reason);
        }
        if words.len() == 1 && program::is_interpreter(launcher.as_bytes()) {
            let reason = format!("`{launcher}` runs anything: name the words that follow, too");
            return refuse(&at, reason);
        }
        if nth >= LIST_MAX {
            return refuse(&at, format!("more than {LIST_MAX} launchers"));
        }
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
