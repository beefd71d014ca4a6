//! What a run came to: how the daemon ended, and what is not as it must be.

use serde_json::Value;

use super::figures::{self, Judged, Verdict};
use crate::bench::table::number;

/// How long it may write nothing while workers are spawned, s. On a busy machine some seconds pass.
const SILENCE_MAX: f64 = 60.0;

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) figures: Vec<Judged>,
    pub(super) samples: usize,
    pub(super) lives: u64,
    pub(super) cycles: u64,
    pub(super) ended: u64,
    pub(super) compiled: u64,
    /// See [`figures::silence`], s.
    pub(super) silence: f64,
    pub(super) failures: Vec<String>,
    pub(super) ending: Ending,
}

/// How the daemon ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Ending {
    pub(super) code: Option<i32>,
    /// Why, as its last record says; none without one.
    pub(super) reason: Option<String>,
    pub(super) complete: bool,
    pub(super) lost: u64,
}

/// What the report on the evidence says of its end.
pub(super) fn ending(report: &Value) -> Ending {
    let recording = &report["recording"];
    Ending {
        code: None,
        reason: recording["reason"].as_str().map(str::to_owned),
        complete: recording["complete"] == true,
        lost: recording["lost"].as_u64().unwrap_or_default(),
    }
}

impl Found {
    /// What is more than the figures, for people.
    pub(super) fn lines(&self) -> [String; 2] {
        let Ending { code, reason, complete, lost } = &self.ending;
        let count = |n: u64| number(n as f64);
        let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        [
            format!(
                "{} samples; {} rounds of every pattern, {} lives, {} ended by slashtrace; \
                 {} files compiled",
                self.samples,
                count(self.cycles),
                count(self.lives),
                count(self.ended),
                count(self.compiled)
            ),
            format!(
                "longest silence: {:.0} s; stop: exit code {}, reason {}, complete: {complete}, lost: {}",
                self.silence,
                shown(code.map(|code| code.to_string())),
                shown(reason.clone()),
                count(*lost)
            ),
        ]
    }

    /// What is not as it must be.
    pub(super) fn faults(&self) -> Vec<String> {
        let beyond = self.figures.iter().filter(|figure| figure.verdict == Verdict::Beyond);
        let mut faults: Vec<String> = beyond
            .filter_map(|figure| {
                let grows = figures::signed(figure.trend?.per_hour);
                Some(format!("{} grows by {grows} an hour", figure.series.name))
            })
            .collect();
        if self.silence > SILENCE_MAX {
            faults
                .push(format!("nothing was written for {:.0} s while workers came", self.silence));
        }
        faults.extend(self.failures.iter().cloned());
        if self.ending.reason.is_none() {
            faults.push("the evidence does not end with a `stop`".to_owned());
        }
        // What was lost must have been counted, and with it the code is 3.
        let counted = self.ending.lost > 0;
        if !self.ending.complete && !counted {
            faults.push("the evidence is incomplete, and nothing was counted as lost".to_owned());
        }
        if !matches!((self.ending.code, counted), (Some(0), _) | (Some(3), true)) {
            faults.push(format!("slashtrace ended with the code {:?}", self.ending.code));
        }
        faults
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A run with nothing wrong.
    pub(in crate::soak) fn fine() -> Found {
        let reason = Some("signal".to_owned());
        let ending = Ending { code: Some(0), reason, complete: true, lost: 0 };
        Found { lives: 30, cycles: 1, ending, ..Found::default() }
    }

    #[test]
    fn what_was_lost_must_be_counted_and_the_end_in_order() {
        assert_eq!(fine().faults(), Vec::<String>::new());
        let with = |change: &dyn Fn(&mut Found)| {
            let mut found = fine();
            change(&mut found);
            found.faults().join("; ")
        };
        let lost = |found: &mut Found| {
            found.ending =
                Ending { code: Some(3), complete: false, lost: 4, ..found.ending.clone() };
        };
        assert_eq!(with(&lost), "");
        assert!(with(&|found| found.silence = 100.0).contains("100 s while workers came"));
        assert!(with(&|found| found.ending.complete = false).contains("incomplete"));
        assert!(with(&|found| found.ending.reason = None).contains("`stop`"));
        assert!(with(&|found| found.ending.code = Some(2)).contains("Some(2)"));
        assert!(with(&|found| found.ending.code = None).contains("None"));
        assert_eq!(with(&|found| found.failures.push("the build: x".to_owned())), "the build: x");
        assert!(fine().lines()[0].contains("30 lives"));
    }

    #[test]
    fn the_end_is_read_from_the_report() {
        let report = json!({"recording": {"reason": "signal", "complete": false, "lost": 7}});
        let lost =
            Ending { code: None, reason: Some("signal".to_owned()), complete: false, lost: 7 };
        assert_eq!(ending(&report), lost);
        assert_eq!(ending(&json!({})), Ending::default());
    }
}
