use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Profile, check};

/// The built-in profile for NousResearch/hermes-agent.
pub const BUILTIN_HERMES: &str = include_str!("hermes.toml");

/// Why a profile was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{reason}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct ParseError {
    /// Line in the file, from 1, where one can be named.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub reason: String,
}

impl Profile {
    /// Parses and checks a profile.
    ///
    /// # Errors
    /// If the text is not TOML, has not the shape of a profile, or breaks one of its rules; names
    /// the line.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let profile: Self = toml::from_str(text).map_err(|error| ParseError {
            line: error.span().map(|span| line_of(text, span.start)),
            reason: error.message().trim_end().to_owned(),
        })?;
        match check::profile(&profile) {
            Ok(()) => Ok(profile),
            Err(refusal) => {
                Err(ParseError { line: line_at(text, &refusal.at), reason: refusal.reason })
            }
        }
    }

    /// Checks a profile that did not come from a file (the one in a `start` record) by the same
    /// rules.
    ///
    /// # Errors
    /// If it breaks one of them. No line is named: there is no file.
    pub fn check(&self) -> Result<(), ParseError> {
        check::profile(self).map_err(|refusal| ParseError { line: None, reason: refusal.reason })
    }

    /// The built-in profile for hermes.
    pub fn hermes() -> Self {
        Self::parse(BUILTIN_HERMES).expect("the built-in profile is checked by a test")
    }
}

/// The line of the value at `path`. The text is parsed again for it, into a tree that knows where
/// each value is: only a refused profile pays for that.
fn line_at(text: &str, path: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let value = path.split('.').try_fold(&root, |value, step| match step.parse::<usize>() {
        Ok(index) => value.get_ref().get(index),
        Err(_) => value.get_ref().get(step),
    })?;
    Some(line_of(text, value.span().start))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
