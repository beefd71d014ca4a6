use std::str::FromStr;

use crate::{
    daemon::tally::Tally,
    model::{Confidence, Kind},
};

/// When findings are a failure.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FailOn {
    /// Exit with 1 if one of these was found, open or not: a kind (`lost-worker`, with a confidence
    /// `lost-worker=proven`), a confidence (any leak that is at least as sure), or `any` leak.
    /// Several are separated by commas. `respawn-churn` is a cost and no leak: it counts if named
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    fail_on: Vec<Failure>,
}

impl FailOn {
    /// Whether something was found that is a failure.
    pub(super) fn fails(&self, tally: &Tally) -> bool {
        self.fail_on.iter().any(|failure| failure.is_in(tally))
    }
}

/// What is a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// Any leak, at least this sure.
    Leak(Confidence),
    /// This finding, at least this sure.
    Kind(Kind, Confidence),
}

impl Failure {
    fn is_in(self, tally: &Tally) -> bool {
        match self {
            Self::Leak(least) => tally.found(least),
            Self::Kind(kind, least) => tally.surest(kind).is_some_and(|surest| surest >= least),
        }
    }
}

/// What is no failure's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is none of: any, weak, strong, proven, {kinds}", kinds = kinds())]
pub(super) struct NoFailure(String);

fn kinds() -> String {
    Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Failure {
    type Err = NoFailure;

    fn from_str(text: &str) -> Result<Self, NoFailure> {
        let unknown = || NoFailure(text.to_owned());
        if text == "any" {
            return Ok(Self::Leak(Confidence::Weak));
        }
        if let Ok(least) = text.parse() {
            return Ok(Self::Leak(least));
        }
        let (name, least) = match text.split_once('=') {
            Some((name, least)) => (name, least.parse().map_err(|_| unknown())?),
            None => (text, Confidence::Weak),
        };
        let kind = name.parse().map_err(|_| unknown())?;
        Ok(Self::Kind(kind, least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Roster;
    use crate::{
        evidence::samples::{finding, record},
        model::Body,
    };

    #[test]
    fn names_and_confidences_are_understood() {
        for (text, failure) in [
            ("any", Failure::Leak(Confidence::Weak)),
            ("proven", Failure::Leak(Confidence::Proven)),
            ("lost-worker", Failure::Kind(Kind::LostWorker, Confidence::Weak)),
            ("respawn-churn=strong", Failure::Kind(Kind::RespawnChurn, Confidence::Strong)),
        ] {
            assert_eq!(text.parse::<Failure>().unwrap(), failure);
        }
        for text in ["", "maybe", "lost-worker=maybe", "any=strong"] {
            let error = text.parse::<Failure>().unwrap_err().to_string();
            assert!(error.contains("lost-worker") && error.contains("any"), "{error}");
        }
    }

    #[test]
    fn a_failure_is_what_was_found_as_sure_as_asked_for() {
        let mut tally = Tally::default();
        // A `lost-worker` that is `strong`.
        tally.record(&record(1, 1, Body::Finding(Box::new(finding()))), &Roster::blank());
        for (text, fails) in [
            ("any", true),
            ("strong", true),
            ("proven", false),
            ("lost-worker", true),
            ("lost-worker=proven", false),
            ("duplicate-worker", false),
        ] {
            let fail_on = FailOn { fail_on: vec![text.parse().unwrap()] };
            assert_eq!(fail_on.fails(&tally), fails, "{text}");
        }
        assert!(!FailOn { fail_on: Vec::new() }.fails(&tally));
    }
}
