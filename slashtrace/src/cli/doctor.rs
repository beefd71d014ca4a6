//! `slashtrace doctor`: what of slashtrace works on this machine, and what to do about the rest.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    model::Capability,
    profile::Profile,
    report::{
        columns::{Cell, Column, Columns},
        style::{BOLD_RED, DIM, GREEN, YELLOW},
    },
    sensor::ebpf,
};

mod checks;
mod facts;

use facts::Facts;

/// The exit code for an environment in which the kernel programs cannot do their work.
const ENVIRONMENT: u8 = 2;

/// How much depends on a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Without it the kernel programs do not work, or what they report is wrong.
    Required,
    /// Without it less is seen.
    Optional,
    /// Nothing depends on it.
    Info,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Check {
    /// Its name: `kernel`, `btf`, `hook sched_process_exec`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// How much depends on it.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do about it; none where it is as it should be.
    pub next_step: Option<String>,
}

/// Looks at this machine and writes what was found to `out`, as a table or, with `json`, as an
/// array. The exit code is 0 if everything that is required is there, else 2.
///
/// # Errors
/// Those of `out`. What cannot be looked at is a failed check, not an error.
pub fn run(profile: &Profile, json: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let mut all = checks::environment(&Facts::gather());
    all.extend(ebpf::probe(profile).iter().map(hook));
    if json {
        serde_json::to_writer_pretty(&mut *out, &all)?;
        writeln!(out)?;
    } else {
        table(&all, out)?;
    }
    out.flush()?;
    Ok(if is_ready(&all) { ExitCode::SUCCESS } else { ExitCode::from(ENVIRONMENT) })
}

fn is_ready(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.ok || check.level != Level::Required)
}

/// The hook that `--count-calls` needs, and nothing else.
const CALLS_HOOK: &str = "count-calls";
/// The hook that joins workers to terminals where one gateway serves many.
const REPLIES_HOOK: &str = "replies";

fn hook(probed: &Capability) -> Check {
    let optional = [CALLS_HOOK, REPLIES_HOOK].contains(&probed.name.as_str());
    let next_step = if probed.name == CALLS_HOOK {
        "run without --count-calls: calls are then judged by samples"
    } else if probed.name == REPLIES_HOOK {
        "boot Linux 6.3 or newer: without it, a worker of a gateway that serves many terminals is \
         joined to its own at most weakly"
    } else {
        "fix what is missing above, or run with --sensor poll, which needs no kernel programs"
    };
    Check {
        name: format!("hook {}", probed.name),
        ok: probed.ok,
        level: if optional { Level::Optional } else { Level::Required },
        detail: probed.detail.clone(),
        next_step: (!probed.ok).then(|| next_step.to_owned()),
    }
}

fn table(checks: &[Check], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Columns::new([Column::left("").least(7), Column::left(""), Column::left("")]);
    for check in checks {
        let mark = match (check.level, check.ok) {
            (Level::Info, _) => Cell::styled("info", DIM),
            (_, true) => Cell::styled("ok", GREEN),
            (Level::Required, false) => Cell::styled("missing", BOLD_RED),
            (Level::Optional, false) => Cell::styled("missing", YELLOW),
        };
        // An error may have several lines.
        let mut detail = check.detail.trim_end().to_owned();
        if !check.ok && check.level == Level::Optional {
            detail.push_str(" (optional)");
        }
        if let Some(next_step) = &check.next_step {
            detail.push_str("\nnext step: ");
            detail.push_str(next_step);
        }
        table.row([mark, check.name.as_str().into(), detail.into()]);
    }
    table.write(2, None, out)?;
    let missing = |level| checks.iter().filter(|one| one.level == level && !one.ok).count();
    match (missing(Level::Required), missing(Level::Optional)) {
        (0, 0) => writeln!(out, "Everything works here."),
        (0, less) => writeln!(out, "Kernel programs work here; {less} optional missing."),
        (missing, _) => writeln!(
            out,
            "Kernel programs do not work here as they should: {missing} required missing. \
             `--sensor poll` works without them and sees less."
        ),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    fn check(name: &str, level: Level, ok: bool) -> Check {
        Check {
            name: name.to_owned(),
            ok,
            level,
            detail: "found\nmore".to_owned(),
            next_step: (!ok).then(|| "do it".to_owned()),
        }
    }

    fn painted(checks: &[Check]) -> String {
        let mut out = Vec::new();
        table(checks, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(checks: &[Check]) -> String {
        strip_str(&painted(checks)).to_string()
    }

    #[test]
    fn the_table_is_aligned_and_names_the_next_step() {
        let checks = [
            check("kernel", Level::Required, true),
            check("tracefs", Level::Info, false),
            check("CAP_SYS_PTRACE", Level::Optional, false),
            check("btf", Level::Required, false),
        ];
        insta::assert_snapshot!(text(&checks));
        let painted = painted(&checks);
        assert!(painted.contains("\x1b[32mok\x1b[0m       kernel"), "{painted:?}");
    }

    #[test]
    fn only_what_is_required_makes_it_unready() {
        let fine = [
            check("a", Level::Required, true),
            check("b", Level::Optional, false),
            check("c", Level::Info, false),
        ];
        assert!(is_ready(&fine));
        assert!(!is_ready(&[check("a", Level::Required, false)]));
        assert!(text(&fine).ends_with("work here; 1 optional missing.\n"));
    }

    #[test]
    fn the_hook_that_counts_calls_is_optional() {
        let probed = |name: &str| Capability { name: name.into(), ok: false, detail: "no".into() };
        assert_eq!(hook(&probed(CALLS_HOOK)).level, Level::Optional);
        let fork = hook(&probed("sched_process_fork"));
        assert_eq!(fork.level, Level::Required);
        assert!(fork.next_step.unwrap().contains("--sensor poll"));
    }

    #[test]
    fn as_json_for_scripts() {
        let json = serde_json::to_value(check("btf", Level::Required, true)).unwrap();
        let expected = serde_json::json!({
            "name": "btf", "ok": true, "level": "required", "detail": "found\nmore",
            "next_step": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn this_machine_is_looked_at() {
        let mut out = Vec::new();
        run(&Profile::hermes(), true, &mut out).unwrap();
        let checks: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
        let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
        for name in ["kernel", "btf", "capabilities", "hook sched_process_exec"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}
