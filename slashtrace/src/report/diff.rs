//! Two recordings against each other: before and after a fix.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write},
};

use serde::Serialize;

use super::{
    columns::{Cell, Column, Columns},
    digest::Report,
    words::{count, list},
};
use crate::model::{Identity, Kind};

/// A change of the share of leaked workers that is more than chance, in hundredths.
const MORE: u64 = 125;
const LESS: u64 = 80;

/// What became of the leak.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It leaked and leaks no more.
    Fixed,
    /// Less of what is spawned leaks.
    Better,
    /// As before; also if neither leaks.
    Same,
    /// More leaks, or it leaks in a way that it did not.
    Worse,
    /// One of the two saw no worker, or not everything: nothing can be said.
    Unknown,
}

/// What one of the two saw.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Version of the program, where it is known.
    pub program: Option<String>,
    /// Workers ever.
    pub spawned: u64,
    /// Workers that a leak was found of.
    pub leaked: u64,
    /// Workers shown to be unused at the end.
    pub stale: u64,
    /// Most that lived at once.
    pub most_live: u64,
    /// Leaks by kind: workers that each named.
    pub kinds: BTreeMap<Kind, u64>,
    /// Whether nothing is known to be missing, and every worker could be judged.
    pub complete: bool,
}

/// Two recordings, compared.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// What became of it.
    pub change: Change,
    /// The same in a sentence.
    pub headline: String,
    /// The first recording.
    pub before: Side,
    /// The second one.
    pub after: Side,
}

/// Compares `after` with `before`.
pub fn compare(before: &Report, after: &Report) -> Diff {
    let (before, after) = (side(before), side(after));
    let new: Vec<String> = after
        .kinds
        .keys()
        .filter(|kind| !before.kinds.contains_key(kind))
        .map(Kind::to_string)
        .collect();
    let change = change(&before, &after, !new.is_empty());
    let headline = match change {
        Change::Fixed => {
            format!(
                "Fixed: {} leaked before, none of {} after.",
                count(before.leaked, "worker"),
                after.spawned
            )
        }
        Change::Better => format!("Better: {}.", shares(&before, &after)),
        Change::Same if before.leaked == 0 => "The same: neither leaks.".to_owned(),
        Change::Same => format!("The same: {}.", shares(&before, &after)),
        Change::Worse if !new.is_empty() => {
            format!("Worse: {}, and new is {}.", shares(&before, &after), list(&new))
        }
        Change::Worse => format!("Worse: {}.", shares(&before, &after)),
        Change::Unknown if after.spawned == 0 || before.spawned == 0 => {
            "Nothing can be said: one of the recordings saw no worker.".to_owned()
        }
        Change::Unknown => {
            "Nothing can be said: the second recording is incomplete, or not every worker of it could \
             be judged, and it shows no leak."
                .to_owned()
        }
    };
    Diff { change, headline, before, after }
}

fn shares(before: &Side, after: &Side) -> String {
    format!(
        "{} of {} leaked before, {} of {} after",
        before.leaked,
        count(before.spawned, "worker"),
        after.leaked,
        after.spawned
    )
}

fn change(before: &Side, after: &Side, new: bool) -> Change {
    if before.spawned == 0 || after.spawned == 0 {
        return Change::Unknown;
    }
    match (before.leaked, after.leaked) {
        (_, 0) if !after.complete => Change::Unknown,
        (0, 0) => Change::Same,
        (_, 0) => Change::Fixed,
        (0, _) => Change::Worse,
        _ if new => Change::Worse,
        (was, is) => {
            // Shares of what was spawned, times the product of both.
            let (was, is) = (was * after.spawned, is * before.spawned);
            if is * 100 >= was * MORE {
                Change::Worse
            } else if is * 100 <= was * LESS {
                Change::Better
            } else {
                Change::Same
            }
        }
    }
}

fn side(report: &Report) -> Side {
    let mut kinds: BTreeMap<Kind, BTreeSet<Identity>> = BTreeMap::new();
    for case in report.findings.iter().filter(|case| case.kind.is_leak()) {
        kinds.entry(case.kind).or_default().extend(&case.workers);
    }
    let leaked: BTreeSet<&Identity> = kinds.values().flatten().collect();
    Side {
        program: report.programs.first().and_then(|program| {
            Some(format!("{} {}", program.package.as_ref()?, program.version.as_ref()?))
        }),
        spawned: report.total.spawned,
        leaked: leaked.len() as u64,
        stale: report.total.stale,
        most_live: report.total.most_live,
        kinds: kinds.iter().map(|(kind, workers)| (*kind, workers.len() as u64)).collect(),
        complete: report.recording.complete && report.not_judged == 0,
    }
}

impl Diff {
    /// What is compared, before, and after.
    fn rows(&self) -> Vec<[String; 3]> {
        let (before, after) = (&self.before, &self.after);
        let row = |what: &str, of: &dyn Fn(&Side) -> String| [what.into(), of(before), of(after)];
        let mut rows = vec![
            row("program", &|side| side.program.clone().unwrap_or_else(|| "unknown".to_owned())),
            row("workers spawned", &|side| side.spawned.to_string()),
            row("leaked", &|side| side.leaked.to_string()),
            row("unused at the end", &|side| side.stale.to_string()),
            row("most at once", &|side| side.most_live.to_string()),
        ];
        let kinds: BTreeSet<&Kind> = before.kinds.keys().chain(after.kinds.keys()).collect();
        rows.extend(kinds.into_iter().map(|kind| {
            row(kind.name(), &|side| side.kinds.get(kind).copied().unwrap_or(0).to_string())
        }));
        rows
    }

    /// Writes it as a table for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}\n", self.headline)?;
        let mut table = Columns::new([
            Column::left("").least(18),
            Column::right("BEFORE"),
            Column::right("AFTER"),
        ]);
        for row in self.rows() {
            table.row(row.map(Cell::from));
        }
        table.write(2, None, out)
    }

    /// The same table as Markdown.
    pub fn markdown(&self) -> String {
        let mut out =
            format!("**{}**\n\n| | before | after |\n| --- | ---: | ---: |\n", self.headline);
        for [what, before, after] in self.rows() {
            let _ = writeln!(out, "| {what} | {before} | {after} |");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::report::samples::digest;

    fn of(before: u32, after: u32) -> Diff {
        compare(&digest(before).report(), &digest(after).report())
    }

    #[test]
    fn what_became_of_a_leak() {
        for (before, after, change) in [
            (20, 0, Change::Fixed),
            (0, 20, Change::Worse),
            (0, 0, Change::Same),
            (20, 21, Change::Same),
        ] {
            assert_eq!(of(before, after).change, change, "{before} {after}");
        }
        let side = |spawned, leaked| Side { spawned, leaked, ..of(1, 1).before };
        for (before, after, expected) in [
            // Longer is not worse: it is the share that counts.
            (side(10, 5), side(100, 50), Change::Same),
            (side(10, 5), side(10, 3), Change::Better),
            (side(10, 5), side(10, 8), Change::Worse),
            (side(10, 5), side(0, 0), Change::Unknown),
            (side(10, 5), Side { complete: false, ..side(10, 0) }, Change::Unknown),
        ] {
            assert_eq!(change(&before, &after, false), expected);
        }
    }

    #[test]
    fn a_diff_for_people() {
        let mut text = Vec::new();
        of(12, 0).text(&mut text).unwrap();
        let text = strip_str(str::from_utf8(&text).unwrap()).to_string();
        insta::assert_snapshot!(format!("{text}\n{}", of(12, 0).markdown()));
    }
}
