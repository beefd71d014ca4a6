//! What `slashtrace reap` would end, or did: one row a worker, with the finding that justifies it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    columns::{Column, Columns},
    words::{age, plain},
};
use crate::{
    model::{Action, Body, Confidence, Finding, Identity, Kind, Outcome, Phase, Record, Step},
    roster::Roster,
    sink::Sink,
};

const COLUMNS: [Column; 6] = [
    Column::left("WORKER"),
    Column::left("SESSION"),
    Column::left("AGE"),
    Column::left("FINDING"),
    Column::left("WHAT"),
    Column::left("WHY"),
];

/// What was done about a worker, or would be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It would be ended.
    WouldEnd,
    /// A check said no.
    Refused,
    /// It ended.
    Ended,
    /// It had ended already.
    Gone,
    /// It lives: a signal did not reach it, or it survived one.
    Lives,
}

/// One worker. The names of the fields are stable.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Row {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// Session key.
    pub session: Option<String>,
    /// Age when it was looked at, seconds.
    pub age_s: u64,
    /// Kind of the finding.
    pub kind: Option<Kind>,
    /// Its confidence.
    pub confidence: Option<Confidence>,
    /// What it says.
    pub finding: Option<String>,
    /// What became of the worker.
    pub fate: Fate,
    /// What was seen of each way to use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ways: Option<String>,
    /// How, or why not.
    pub detail: String,
}

/// Collects what the reaper does.
#[derive(Debug, Default)]
pub struct Reaped {
    /// What each finding said last.
    texts: BTreeMap<String, String>,
    rows: BTreeMap<Identity, Row>,
}

impl Sink for Reaped {
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        match &record.body {
            Body::Finding(finding) => self.found(finding),
            Body::Action(action) => self.acted(record.boottime_ns, action, roster),
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Reaped {
    /// One row a worker, oldest first.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by_key(|row| (row.start_ns, row.pid));
        rows
    }

    /// Whether every worker that was to be ended is gone.
    pub fn all_gone(&self) -> bool {
        self.rows.values().all(|row| matches!(row.fate, Fate::Ended | Fate::Gone))
    }

    /// Prints a JSON array for scripts.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &self.rows())?;
        writeln!(out)
    }

    /// Prints a table for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return writeln!(out, "no finding justifies ending a worker");
        }
        let mut table = Columns::new(COLUMNS);
        for row in self.rows() {
            let finding = match (row.kind, row.confidence) {
                (Some(kind), Some(confidence)) => format!("{kind} ({confidence})"),
                _ => "–".to_owned(),
            };
            let because = || {
                let finding = row.finding.as_deref()?;
                Some(
                    row.ways
                        .as_ref()
                        .map_or(finding.to_owned(), |ways| format!("{finding} ({ways})")),
                )
            };
            let (what, why) = match row.fate {
                Fate::WouldEnd => ("would be ended", because()),
                Fate::Ended => ("ended", row.finding.clone()),
                Fate::Refused => ("left alone", None),
                Fate::Gone => ("had ended", None),
                Fate::Lives => ("lives", None),
            };
            table.row([
                row.pid.to_string().into(),
                plain(row.session.as_deref().unwrap_or("–")).as_ref().into(),
                age(row.age_s.saturating_mul(1_000_000_000)).into(),
                finding.into(),
                what.into(),
                plain(why.as_ref().unwrap_or(&row.detail)).as_ref().into(),
            ]);
        }
        table.write(2, None, out)
    }

    fn found(&mut self, finding: &Finding) {
        self.texts.insert(finding.id.clone(), finding.text.clone());
    }

    fn acted(&mut self, at_ns: u64, action: &Action, roster: &Roster) {
        let Some(worker) = action.worker else { return };
        let fate = match (action.step, action.phase, action.outcome) {
            (Step::WouldEnd, ..) => Fate::WouldEnd,
            (_, _, Some(Outcome::Exited)) => Fate::Ended,
            (_, _, Some(Outcome::Gone)) => Fate::Gone,
            (Step::Refuse, ..) => Fate::Refused,
            (_, Phase::After, Some(Outcome::Survived | Outcome::Withdrawn | Outcome::Failed)) => {
                Fate::Lives
            }
            // Under way.
            _ => return,
        };
        let finding = action.finding.as_ref().and_then(|id| self.texts.get(id)).cloned();
        let known = roster.worker(worker).filter(|_| fate == Fate::WouldEnd);
        let ways = known.map(|worker| worker.ways(&roster.rules, at_ns));
        self.rows.insert(
            worker,
            Row {
                pid: worker.pid,
                start_ns: worker.start_ns,
                session: roster
                    .worker(worker)
                    .and_then(|it| it.session.as_deref().map(str::to_owned)),
                age_s: at_ns.saturating_sub(worker.start_ns) / 1_000_000_000,
                kind: action.kind,
                confidence: action.confidence,
                finding,
                fate,
                ways,
                detail: action.detail.clone(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::evidence::samples;

    fn reaped(actions: &[(Step, Phase, Option<Outcome>)]) -> Reaped {
        let (mut reaped, mut roster) = (Reaped::default(), Roster::blank());
        let mut records = vec![
            Body::Spawn(Box::new(samples::spawn())),
            Body::Finding(Box::new(samples::finding())),
        ];
        for &(step, phase, outcome) in actions {
            let action = Action { step, phase, outcome, ..samples::action() };
            records.push(Body::Action(Box::new(action)));
        }
        for (seq, body) in (1..).zip(records) {
            let record = samples::record(seq, 400_000_000_000, body);
            roster.observe(&record);
            reaped.record(&record, &roster).unwrap();
        }
        reaped
    }

    fn printed(reaped: &Reaped) -> String {
        let mut out = Vec::new();
        reaped.table(&mut out).unwrap();
        strip_str(str::from_utf8(&out).unwrap()).to_string()
    }

    #[test]
    fn what_would_be_ended_and_why() {
        let reaped = reaped(&[(Step::WouldEnd, Phase::After, None)]);
        assert!(!reaped.all_gone());
        insta::assert_snapshot!(printed(&reaped), @r"
        WORKER  SESSION                 AGE    FINDING               WHAT            WHY
        2835    20261122_131836_536459  5m38s  lost-worker (strong)  would be ended  worker 2835 has read nothing while its sibling served (its stdin: not known; work: none for 0 ms)
        ");
    }

    #[test]
    fn the_last_step_decides() {
        let ended = reaped(&[
            (Step::Terminate, Phase::Before, None),
            (Step::Terminate, Phase::After, Some(Outcome::Sent)),
            (Step::Result, Phase::After, Some(Outcome::Exited)),
        ]);
        assert!(ended.all_gone());
        assert_eq!(ended.rows()[0].fate, Fate::Ended);
        let refused = reaped(&[(Step::Refuse, Phase::After, Some(Outcome::Refused))]);
        assert!(printed(&refused).contains("left alone"), "{}", printed(&refused));
        let mut json = Vec::new();
        refused.json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json[0]["fate"], &json[0]["pid"]), (&"refused".into(), &2835.into()));
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(printed(&Reaped::default()), "no finding justifies ending a worker\n");
        assert!(Reaped::default().all_gone());
    }
}
