use std::process::ExitCode;

/// How slashtrace ends: one table for all subcommands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It did what it was asked for.
    Fine,
    /// Findings at or above what `--fail-on` names.
    Findings,
    /// Wrong usage, or an environment in which it cannot work.
    Error,
    /// The evidence is incomplete: something was not seen.
    Incomplete,
    /// The traced command's own code.
    Command(u8),
}

impl Exit {
    /// The code for the process.
    pub const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Findings => 1,
            Self::Error => 2,
            Self::Incomplete => 3,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_documentation() {
        let codes = [Exit::Fine, Exit::Findings, Exit::Error, Exit::Incomplete, Exit::Command(42)];
        assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 42]);
    }
}
