use std::{fmt, ops::Range};

use serde::Serialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use unicode_width::UnicodeWidthStr;

use super::{Profile, check};

/// The built-in profile for NousResearch/hermes-agent.
pub const BUILTIN_HERMES: &str = include_str!("hermes.toml");

/// Why a profile was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{reason}{}", place.as_ref().map(Excerpt::position).unwrap_or_default(),
    place.as_ref().map(|place| format!("\n{place}")).unwrap_or_default())]
pub struct ParseError {
    /// Where, if the profile came from a file and a place can be named.
    pub place: Option<Excerpt>,
    /// What is wrong with it.
    pub reason: String,
}

/// A place in a file, with the line that it is in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Excerpt {
    /// Its line, from 1.
    pub line: usize,
    /// Its column, in characters from 1.
    pub column: usize,
    /// The text of the line, as far as it may be shown on a terminal.
    #[serde(skip)]
    text: String,
    /// Columns of the terminal in front of the place, and that it takes.
    #[serde(skip)]
    marked: (usize, usize),
}

impl Excerpt {
    /// So much of a line is shown.
    const CHARS_MAX: usize = 100;

    fn new(text: &str, span: &Range<usize>) -> Self {
        // A span may end behind the last character, or within one.
        let floor =
            |at: usize| (0..=at.min(text.len())).rev().find(|&it| text.is_char_boundary(it));
        let (begin, end) = (floor(span.start).unwrap_or(0), floor(span.end).unwrap_or(0));
        let line_begin = text[..begin].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[begin..].find('\n').map_or(text.len(), |at| begin + at);
        let column = text[line_begin..begin].chars().count();
        // Of a long line what is around the place.
        let skipped = column.saturating_sub(Self::CHARS_MAX / 2);
        let shown = |from: usize, to: usize| -> String {
            text[from..to].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        let before: String = shown(line_begin, begin).chars().skip(skipped).collect();
        let marked = shown(begin, end.clamp(begin, line_end));
        let line: String = shown(line_begin, line_end).chars().skip(skipped).collect();
        let cut: String = line.trim_end().chars().take(Self::CHARS_MAX).collect();
        let width = |text: &str| UnicodeWidthStr::width(text);
        let left = width(&cut).saturating_sub(width(&before));
        Self {
            line: text[..begin].matches('\n').count() + 1,
            column: column + 1,
            marked: (width(&before), width(&marked).min(left).max(1)),
            text: cut,
        }
    }

    fn position(&self) -> String {
        format!("line {}, column {}: ", self.line, self.column)
    }
}

impl fmt::Display for Excerpt {
    /// The line, and carets under the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let (before, length) = self.marked;
        writeln!(f, "{number} | {}", self.text)?;
        let gutter = number.len();
        write!(f, "{:gutter$} | {:before$}{}", "", "", "^".repeat(length))
    }
}

impl Profile {
    /// Parses and checks a profile.
    ///
    /// # Errors
    /// If the text is not TOML, has not the shape of a profile, or breaks one of its rules; shows
    /// the place.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let profile: Self = toml::from_str(text).map_err(|error| ParseError {
            place: error.span().map(|span| Excerpt::new(text, &span)),
            reason: error.message().trim_end().to_owned(),
        })?;
        match check::profile(&profile) {
            Ok(()) => Ok(profile),
            Err(refusal) => {
                let place = span_at(text, &refusal.at).map(|span| Excerpt::new(text, &span));
                Err(ParseError { place, reason: refusal.reason })
            }
        }
    }

    /// Checks a profile that did not come from a file (the one in a `start` record) by the same
    /// rules.
    ///
    /// # Errors
    /// If it breaks one of them. No place is named: there is no file.
    pub fn check(&self) -> Result<(), ParseError> {
        check::profile(self).map_err(|refusal| ParseError { place: None, reason: refusal.reason })
    }

    /// The built-in profile for hermes.
    pub fn hermes() -> Self {
        Self::parse(BUILTIN_HERMES).expect("the built-in profile is checked by a test")
    }
}

/// Where the value at `path` is, or what it would be in. The text is parsed again for it, into a tree
/// that knows where each value is: only a refused profile pays for that.
fn span_at(text: &str, path: &str) -> Option<Range<usize>> {
    let table = DeTable::parse(text).ok()?;
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let mut value = &root;
    for step in path.split('.') {
        let next = match step.parse::<usize>() {
            Ok(index) => match value.get_ref() {
                // A list of one may be written as that one.
                DeValue::Table(_) if index == 0 => Some(value),
                other => other.get(index),
            },
            Err(_) => value.get_ref().get(step),
        };
        let Some(next) = next else { break };
        value = next;
    }
    (!std::ptr::eq(value, &raw const root)).then(|| value.span())
}

#[cfg(test)]
mod tests;
