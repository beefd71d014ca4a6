use std::process::ExitCode;

use crate::daemon::tally::Tally;

/// How slashtrace ends: one table for all subcommands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It did what it was asked for.
    Fine,
    /// Findings at or above what `--fail-on` names.
    Findings,
    /// Wrong usage, or an environment in which it cannot work.
    Error,
    /// The evidence is incomplete: something was not seen, or workers could not be judged by it.
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

    /// What a recording comes to. What was found is found, whatever is missing; a command's own
    /// failure is not hidden by what is missing either.
    pub fn of(tally: &Tally, fails: bool, command: Option<u8>) -> Self {
        match command {
            _ if fails => Self::Findings,
            Some(code) if code != 0 => Self::Command(code),
            _ if !(tally.complete() && tally.judged()) => Self::Incomplete,
            Some(code) => Self::Command(code),
            None => Self::Fine,
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
    use crate::roster::Roster;
    use crate::{
        evidence::samples::{record, spawn},
        model::{Body, Stop},
    };

    #[test]
    fn the_codes_are_those_of_the_documentation() {
        let codes = [Exit::Fine, Exit::Findings, Exit::Error, Exit::Incomplete, Exit::Command(42)];
        assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 42]);
    }

    #[test]
    fn what_a_recording_comes_to() {
        let tally = |complete: bool| {
            let mut tally = Tally::default();
            let reason = "duration".to_owned();
            let stop = Stop { reason, counters: [].into(), complete };
            tally.record(&record(1, 1, Body::Stop(stop)), &Roster::blank());
            tally
        };
        for (complete, fails, command, exit) in [
            (true, false, None, Exit::Fine),
            (true, true, None, Exit::Findings),
            (false, true, Some(7), Exit::Findings),
            (false, false, Some(7), Exit::Command(7)),
            (false, false, Some(0), Exit::Incomplete),
            (false, false, None, Exit::Incomplete),
            (true, false, Some(0), Exit::Command(0)),
        ] {
            assert_eq!(Exit::of(&tally(complete), fails, command), exit);
        }
    }

    #[test]
    fn a_worker_that_could_not_be_judged_makes_the_evidence_incomplete() {
        let ended = |change: fn(&mut crate::model::Spawn)| {
            let (mut tally, mut roster) = (Tally::default(), Roster::blank());
            let mut spawn = spawn();
            change(&mut spawn);
            let counters = [].into();
            let stop = Stop { reason: "duration".to_owned(), counters, complete: true };
            for (seq, body) in (1..).zip([Body::Spawn(Box::new(spawn)), Body::Stop(stop)]) {
                let record = record(seq, 1, body);
                roster.observe(&record);
                tally.record(&record, &roster);
            }
            tally
        };
        assert_eq!(Exit::of(&ended(|_| ()), false, None), Exit::Fine);
        let keyless = ended(|spawn| spawn.session = None);
        assert_eq!(Exit::of(&keyless, false, Some(0)), Exit::Incomplete);
        assert_eq!(Exit::of(&keyless, true, None), Exit::Findings);
        assert_eq!(Exit::of(&keyless, false, Some(7)), Exit::Command(7));
        // One that was there before is judged from then on.
        assert_eq!(Exit::of(&ended(|spawn| spawn.inherited = true), false, None), Exit::Fine);
    }
}
