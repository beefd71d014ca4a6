use std::fmt;

use super::Profile;

/// The built-in profile for NousResearch/hermes-agent.
pub const BUILTIN_HERMES: &str = include_str!("hermes.toml");

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
        toml::from_str(text).map_err(|error| ParseError {
            line: error.span().map(|span| text[..span.start].lines().count().max(1)),
            reason: error.message().to_owned(),
        })
    }

    /// The built-in profile for hermes.
    pub fn hermes() -> Self {
        Self::parse(BUILTIN_HERMES).expect("the built-in profile is checked by a test")
    }
}
