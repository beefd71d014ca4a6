use std::ops::Range;

use super::{Profile, SessionSource, WorkerRule, launcher::title_words, program};

/// What a worker rule read from an argv that it matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkerMatch<'a> {
    /// The rule: the first that matched.
    pub rule: &'a WorkerRule,
    /// Where the session's key may stand, in the order of the rule: the first that is not empty
    /// holds. A place in argv without a key is left out, so an argv alone decides if the first of
    /// these is [`KeyPlace::Argv`].
    pub keys: Vec<KeyPlace<'a>>,
    /// Value of the model flag, raw bytes.
    pub model: Option<&'a [u8]>,
    /// Tokens of argv that the rule names, which may be shown: its tokens, or its program.
    pub named: Range<usize>,
    /// The first token behind those.
    pub behind: usize,
}

/// Where a session's key stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyPlace<'a> {
    /// In argv.
    Argv {
        /// The key, raw bytes; not empty.
        key: &'a [u8],
        /// Index of the token that it stands in.
        at: usize,
    },
    /// In this variable of the environment, if that is there and not empty.
    Env(&'a str),
    /// The folder in which the process runs.
    Cwd,
}

impl<'a> WorkerMatch<'a> {
    /// The session's key as far as argv says it; [`None`] too if another place goes before argv.
    pub fn key_in_argv(&self) -> Option<(&'a [u8], usize)> {
        match self.keys.first() {
            Some(KeyPlace::Argv { key, at }) => Some((key, *at)),
            _ => None,
        }
    }
}

/// Splits an argument area (`mm->arg_start..arg_end`, /proc/PID/cmdline) into its tokens. A last
/// token without its NUL is kept: in a truncated area it may be incomplete.
pub fn tokens_of(area: &[u8]) -> Vec<&[u8]> {
    let mut tokens: Vec<&[u8]> = area.split(|&b| b == 0).collect();
    if area.is_empty() || area.ends_with(&[0]) {
        tokens.pop();
    }
    tokens
}

impl Profile {
    /// Applies the worker rules to argv tokens: the first that matches.
    pub fn match_worker<'a>(&'a self, argv: &[&'a [u8]]) -> Option<WorkerMatch<'a>> {
        let found = self.workers.iter().find_map(|rule| rule.matched(argv))?;
        (!self.only_launches(argv)).then_some(found)
    }

    /// The name of the known helper that this argv belongs to.
    pub fn match_helper(&self, argv: &[&[u8]]) -> Option<&str> {
        self.helpers
            .iter()
            .find(|helper| {
                argv.iter().any(|token| program::basename(token) == helper.file.as_bytes())
            })
            .map(|helper| helper.name.as_str())
    }
}

impl WorkerRule {
    fn matched<'a>(&'a self, argv: &[&'a [u8]]) -> Option<WorkerMatch<'a>> {
        if let Some(found) = self.titled(argv) {
            return Some(found);
        }
        let program = match &self.program {
            Some(program) => Some(program::find(program, argv)?),
            None => None,
        };
        let named = if self.tokens.is_empty() {
            let at = program?;
            at..at + 1
        } else {
            self.find_tokens(argv)?
        };
        if self.excludes(argv) {
            return None;
        }
        let behind = named.end;
        let mut keys = Vec::new();
        for source in self.session.iter().flat_map(|rule| &rule.0) {
            let found = match source {
                SessionSource::Flag(flag) => flag_value(argv, 1, flag),
                SessionSource::Position(nth) => positional(argv, behind, *nth),
                SessionSource::Env(name) => {
                    keys.push(KeyPlace::Env(name));
                    continue;
                }
                SessionSource::Cwd => {
                    keys.push(KeyPlace::Cwd);
                    continue;
                }
                // It is not written yet.
                SessionSource::Title(_) => None,
            };
            keys.extend(found.map(|(key, at)| KeyPlace::Argv { key, at }));
        }
        let flag = self.session_flag.as_deref();
        let found = flag.and_then(|flag| flag_value(argv, behind, flag));
        keys.extend(found.map(|(key, at)| KeyPlace::Argv { key, at }));
        let model = self.model_flag.as_deref();
        let model = model.and_then(|flag| flag_value(argv, behind, flag)).map(|(value, _)| value);
        Some(WorkerMatch { rule: self, keys, model, named, behind })
    }

    /// The rule's tokens one behind the other in `argv[1..]`, however `-m` is spelled: the first.
    fn find_tokens(&self, argv: &[&[u8]]) -> Option<Range<usize>> {
        (1..argv.len()).find_map(|at| {
            let count = begins_with(&argv[at..], &self.tokens)?;
            Some(at..at + count)
        })
    }

    /// A worker that wrote one of the rule's titles over its argv.
    fn titled<'a>(&'a self, argv: &[&'a [u8]]) -> Option<WorkerMatch<'a>> {
        let (first, rest) = argv.split_first()?;
        if !rest.iter().all(|token| token.is_empty()) {
            return None;
        }
        let key = self.titles().find_map(|title| {
            let (before, after) = title.split_once('*')?;
            // What is left of the arguments is blanked with spaces by some.
            let text = first.trim_ascii_end();
            text.strip_prefix(before.as_bytes())?.strip_suffix(after.as_bytes())
        })?;
        let mut keys: Vec<KeyPlace<'a>> = Vec::new();
        if !key.is_empty() {
            keys.push(KeyPlace::Argv { key, at: 0 });
        }
        Some(WorkerMatch { rule: self, keys, model: None, named: 0..0, behind: argv.len() })
    }

    fn excludes(&self, argv: &[&[u8]]) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let is_excluded = |token: &[u8]| {
            self.exclude.iter().any(|excluded| match excluded.strip_suffix('*') {
                Some(start) => token.starts_with(start.as_bytes()),
                None => token == excluded.as_bytes(),
            })
        };
        // A title, as Chromium's zygotes write one, has the options in its one token.
        let title = title_words(argv).unwrap_or_default();
        argv.iter().skip(1).any(|token| is_excluded(token))
            || title.iter().any(|word| is_excluded(word))
    }
}

/// The nth argument from `from` that is neither a flag nor may be the value of one.
fn positional<'a>(argv: &[&'a [u8]], from: usize, nth: u32) -> Option<(&'a [u8], usize)> {
    let mut count = 0;
    let mut flags = true;
    let mut after_flag = false;
    for (at, token) in argv.iter().enumerate().skip(from) {
        if flags && *token == b"--" {
            flags = false;
            after_flag = false;
        } else if flags && token.len() > 1 && token.starts_with(b"-") {
            after_flag = !token.contains(&b'=');
        } else if after_flag {
            after_flag = false;
        } else {
            count += 1;
            if count == nth {
                return (!token.is_empty()).then_some((token, at));
            }
        }
    }
    None
}

/// How many tokens of `argv` are the rule's, if it begins with those.
fn begins_with(argv: &[&[u8]], rule: &[String]) -> Option<usize> {
    let Some((wanted, rest)) = rule.split_first() else { return Some(0) };
    let (token, behind) = argv.split_first()?;
    if *token == wanted.as_bytes() {
        return begins_with(behind, rest).map(|count| count + 1);
    }
    let (glued, rest) = rest.split_first().filter(|_| wanted == "-m")?;
    let module = token.strip_prefix(b"-m")?;
    if module != glued.as_bytes() {
        return None;
    }
    begins_with(behind, rest).map(|count| count + 1)
}

/// Value of `flag` in `argv[from..]`, as `--flag VALUE` or `--flag=VALUE`, and the index of the token
/// that has it; the last one holds, as in argparse, and an empty one is none.
fn flag_value<'a>(argv: &[&'a [u8]], from: usize, flag: &str) -> Option<(&'a [u8], usize)> {
    let mut value = None;
    let mut tokens = argv.iter().enumerate().skip(from);
    while let Some((at, token)) = tokens.next() {
        if *token == flag.as_bytes() {
            value = tokens.next().map(|(at, token)| (*token, at)).or(value);
        } else if let Some(inline) =
            token.strip_prefix(flag.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
        {
            value = Some((inline, at));
        }
    }
    value.filter(|(value, _)| !value.is_empty())
}

#[cfg(test)]
mod tests;
