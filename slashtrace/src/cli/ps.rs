//! `slashtrace ps`: what is running now, from /proc alone.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::redacting::Redacting;
use crate::{
    host::{
        clock,
        proc::{IdentityBook, ProcFs, snapshot},
    },
    model::Identity,
    profile::Profile,
    report::ps,
    unhurried,
};

/// The kernel walks page tables for a proportional set: with many workers that is left off after
/// this time.
const PSS_TIME: Duration = Duration::from_millis(500);

/// Prints the live workers of a profile by gateway and session: a table, or with `json` an array.
///
/// # Errors
/// If /proc cannot be read or `out` cannot be written.
pub(super) fn run(
    profile: &Profile,
    json: bool,
    redacting: Redacting,
    out: &mut dyn Write,
) -> Result<()> {
    run_on(&ProcFs::default(), profile, json, redacting, out)
}

fn run_on(
    proc: &ProcFs,
    profile: &Profile,
    json: bool,
    redacting: Redacting,
    out: &mut dyn Write,
) -> Result<()> {
    let mut spawns =
        snapshot(proc, profile, &mut IdentityBook::new(proc.tick_ns())).with_context(|| {
            let root = proc.root().display();
            format!("cannot read {root}; is it mounted? `mount -t proc proc {root}`")
        })?;
    let (redaction, note) = redacting.of_list(&spawns);
    if let Some(note) = note {
        // The list is whole all the same.
        drop(writeln!(unhurried::stderr(), "{note}"));
    }
    for spawn in &mut spawns {
        redaction.spawn(spawn);
    }
    let started = Instant::now();
    let memory = |identity: Identity| {
        let stat = proc.stat(identity.pid).ok()??;
        if !proc.is_same(identity, &stat) || stat.ended() {
            return None;
        }
        let pss = if started.elapsed() < PSS_TIME {
            proc.pss_kib(identity.pid).ok().flatten()
        } else {
            None
        };
        Some((stat.rss_kib, pss))
    };
    let groups = ps::group(profile, &spawns, clock::boottime_ns(), memory);
    if json {
        ps::json(&groups, out)?;
    } else {
        ps::table(&groups, &profile.name, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::host::proc::fake::{Fake, FakeProc, WORKER};

    fn printed(fake: &FakeProc, json: bool) -> String {
        let mut out = Vec::new();
        let (proc, profile) = (fake.proc(), Profile::hermes());
        run_on(&proc, &profile, json, Redacting::default(), &mut out).unwrap();
        strip_str(str::from_utf8(&out).unwrap()).to_string()
    }

    #[test]
    fn reads_proc_and_prints() {
        let fake = FakeProc::new();
        assert_eq!(printed(&fake, false), "no workers of profile hermes are running\n");
        fake.put(&Fake { pid: 7, comm: b"gate\x1b[0m", ..Fake::default() });
        fake.put(&Fake { pid: 20, ppid: 7, cmdline: WORKER, ..Fake::default() });
        fake.put(&Fake { pid: 21, ppid: 1, cmdline: WORKER, ..Fake::default() });
        let table = printed(&fake, false);
        assert!(table.contains("7 gate\\x1b[0m") && table.contains("adopted by pid 1"), "{table}");
        assert!(table.ends_with(" MiB\n") && table.contains("total: 2 workers in 2 groups"));
        let json: serde_json::Value = serde_json::from_str(&printed(&fake, true)).unwrap();
        assert_eq!((&json[0]["session"], &json[0]["rss_kib"]), (&"k1".into(), &100_000.into()));
        assert!(json[0]["pss_kib"].is_null());
    }

    #[test]
    fn without_proc_it_says_what_to_do() {
        let (proc, profile) = (ProcFs::new("/nowhere"), Profile::hermes());
        let error = run_on(&proc, &profile, false, Redacting::default(), &mut Vec::new());
        let error = error.unwrap_err();
        assert!(format!("{error:#}").contains("mount -t proc"), "{error:#}");
    }
}
