//! What the user can do about an error: a part of the error, not of its text.
//! May touch: errors that it is handed.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// Adds to an error what the user can do about it.
pub trait NextStep {
    /// The same with its next step.
    type Advised;

    /// What the user can do, as an order and without a full stop: `name another file`. The command
    /// line prints it after the error, behind `next step:`. The error's own text stays as it is.
    fn next_step(self, step: impl Into<Cow<'static, str>>) -> Self::Advised;
}

impl NextStep for anyhow::Error {
    type Advised = Self;

    fn next_step(self, step: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Advised { error: self, step: step.into() })
    }
}

impl<T, E: Into<anyhow::Error>> NextStep for Result<T, E> {
    type Advised = anyhow::Result<T>;

    fn next_step(self, step: impl Into<Cow<'static, str>>) -> anyhow::Result<T> {
        self.map_err(|error| error.into().next_step(step))
    }
}

/// The next steps of an error and of its causes, the outermost first.
pub fn next_steps(error: &anyhow::Error) -> Vec<&str> {
    let mut steps = Vec::new();
    for mut cause in error.chain() {
        while let Some(advised) = cause.downcast_ref::<Advised>() {
            steps.push(&*advised.step);
            cause = advised.error.as_ref();
        }
    }
    steps
}

/// An error and its next step. It reads as the error does and has its causes: in a chain of causes
/// it takes the error's place. (`downcast_ref` does not see through it; [`anyhow::Error::chain`]
/// does.)
#[derive(Debug)]
struct Advised {
    error: anyhow::Error,
    step: Cow<'static, str>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not with the flags of `f`: `{:#}` would give the causes, which follow in the chain.
        write!(f, "{}", self.error)
    }
}

impl StdError for Advised {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context as _, anyhow};

    use super::*;

    fn full() -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }

    #[test]
    fn an_error_reads_as_without_its_next_step() {
        let plain = full().context("cannot write x").unwrap_err();
        let error = full().context("cannot write x").next_step("make room").unwrap_err();
        assert_eq!(error.to_string(), plain.to_string());
        assert_eq!(format!("{error:#}"), format!("{plain:#}"));
        assert_eq!(next_steps(&error), ["make room"]);
        assert_eq!(next_steps(&plain), [""; 0]);
    }

    #[test]
    fn each_next_step_is_found_and_so_is_the_cause() {
        let error = full()
            .context("cannot write x")
            .next_step("make room")
            .next_step("or name another file")
            .context("no evidence")
            .context("no recording")
            .next_step(format!("try {}", 2))
            .unwrap_err();
        assert_eq!(next_steps(&error), ["try 2", "or name another file", "make room"]);
        assert!(error.chain().any(<dyn StdError>::is::<io::Error>));
        assert_eq!(next_steps(&anyhow!("no").next_step("do")), ["do"]);
    }
}
