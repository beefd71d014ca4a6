//! What is running now: one row a gateway and session, and a line with the total.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{
    columns::{Cell, Column, Columns},
    style::{PLAIN, YELLOW},
    words::{age, count},
};
use crate::{
    model::{Identity, Spawn},
    profile::Profile,
    redact,
    roster::{Roster, Worker},
};

const COLUMNS: [Column; 8] = [
    Column::left("GATEWAY"),
    Column::left("SESSION"),
    Column::right("LIVE"),
    Column::right("OLDEST"),
    Column::right("RSS MiB"),
    Column::right("PSS MiB"),
    Column::left("TTY"),
    Column::left("PIDS"),
];
/// Pids that a row shows at most; the JSON form has all.
const PIDS_MAX: usize = 6;
const NONE: &str = "–";

/// Live workers of one gateway and session. The names of the fields are stable.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Group {
    /// The current parent of the workers, which is their gateway unless it adopted them; null where
    /// it is a process that adopts orphans, so that the gateway is unknown.
    pub gateway: Option<GatewayRow>,
    /// The process that adopted the workers, where the gateway is unknown; null if even that is out
    /// of sight (in an outer pid namespace).
    pub adopted_by: Option<GatewayRow>,
    /// Session key; null if the workers' arguments have none.
    pub session: Option<String>,
    /// Number of workers.
    pub live: usize,
    /// Age of the oldest, seconds.
    pub oldest_s: u64,
    /// Resident memory of all, KiB.
    pub rss_kib: u64,
    /// Proportional memory of all, KiB; null unless it could be read of each.
    pub pss_kib: Option<u64>,
    /// Indices of their terminals: 3 for /dev/pts/3.
    pub terminals: Vec<u32>,
    /// The workers, oldest first.
    pub workers: Vec<WorkerRow>,
}

/// A gateway, or who is in its place.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct GatewayRow {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// `comm`, escaped.
    pub comm: String,
    /// First token of its argv, home masked.
    pub argv0: Option<String>,
}

/// One worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct WorkerRow {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// Age, seconds.
    pub age_s: u64,
    /// Real user id.
    pub uid: u32,
    /// Resident set, KiB, with those of what only started it.
    pub rss_kib: u64,
    /// Proportional set, KiB, likewise; null if it could not be read (or only slowly).
    pub pss_kib: Option<u64>,
    /// Index of its terminal.
    pub terminal: Option<u32>,
    /// Model in its arguments.
    pub model: Option<String>,
    /// What only started this one (`uv run`, `npm exec`) and is not counted; its memory is the worker's.
    pub launcher: Option<u32>,
}

/// Memory of a worker, read when the table is made: resident and proportional set, KiB.
pub type Memory = (u64, Option<u64>);

/// Groups the workers of a profile in a snapshot. `memory` is `None` for a worker that is gone by now; a worker
/// that launched another of the same session stands behind that one.
pub fn group(
    profile: &Profile,
    spawns: &[Spawn],
    now_ns: u64,
    mut memory: impl FnMut(Identity) -> Option<Memory>,
) -> Vec<Group> {
    let roster = Roster::of(profile, spawns, now_ns);
    let by_id: BTreeMap<Identity, &Spawn> =
        spawns.iter().map(|spawn| (spawn.identity(), spawn)).collect();
    // Who started it, if that is one with it.
    let launcher_of = |spawn: &Spawn| {
        let parent = spawn.parent.as_ref()?.process.identity();
        let launcher = roster.worker(parent).filter(|parent| !parent.counts())?;
        let same = launcher.session.as_deref() == spawn.session.as_deref();
        by_id.get(&parent).filter(|_| same).copied()
    };
    let counted = |spawn: &&Spawn| {
        roster.worker(spawn.identity()).is_some_and(|it| it.counts() && it.is_live())
    };
    let mut groups: Vec<Group> = Vec::new();
    for spawn in spawns.iter().filter(counted) {
        let Some((mut rss_kib, mut pss_kib)) = memory(spawn.identity()) else {
            continue;
        };
        let above = std::iter::successors(launcher_of(spawn), |above| launcher_of(above));
        let mut launchers: Vec<Identity> = above.clone().map(Spawn::identity).collect();
        let first = above.last().unwrap_or(spawn);
        let known = roster.worker(first.identity());
        launchers
            .extend(known.into_iter().flat_map(|first| first.rare().launchers.iter().copied()));
        // They and the worker are one. One that is gone has none.
        for (rss, pss) in launchers.iter().filter_map(|launcher| memory(*launcher)) {
            rss_kib += rss;
            pss_kib = pss_kib.zip(pss).map(|(one, other)| one + other);
        }
        let (gateway, adopted_by) = parent_of(first, known);
        let worker = WorkerRow {
            pid: spawn.pid,
            start_ns: spawn.start_ns,
            age_s: now_ns.saturating_sub(spawn.start_ns) / 1_000_000_000,
            uid: spawn.uid,
            rss_kib,
            pss_kib,
            terminal: spawn.terminal.map(|terminal| terminal.index),
            model: spawn.model.clone(),
            launcher: launchers.first().map(|launcher| launcher.pid),
        };
        let same = groups.iter_mut().find(|group| {
            (&group.gateway, &group.adopted_by, &group.session)
                == (&gateway, &adopted_by, &spawn.session)
        });
        match same {
            Some(group) => group.workers.push(worker),
            None => groups.push(Group {
                gateway,
                adopted_by,
                session: spawn.session.clone(),
                live: 0,
                oldest_s: 0,
                rss_kib: 0,
                pss_kib: None,
                terminals: Vec::new(),
                workers: vec![worker],
            }),
        }
    }
    groups.iter_mut().for_each(sum);
    groups.sort_by(|a, b| {
        let key = |group: &Group| (group.gateway.is_none(), group.session.is_none());
        (key(a), &a.gateway, &a.adopted_by, &a.session).cmp(&(
            key(b),
            &b.gateway,
            &b.adopted_by,
            &b.session,
        ))
    });
    groups
}

/// The gateway, which is above what only launched the worker, or else who adopted it.
fn parent_of(spawn: &Spawn, known: Option<&Worker>) -> (Option<GatewayRow>, Option<GatewayRow>) {
    let Some(parent) = &spawn.parent else {
        return (None, None);
    };
    let gateway = known.and_then(|worker| worker.gateway.as_ref()).filter(|_| !parent.reaper);
    let process = gateway.map_or(&parent.process, |link| &link.process);
    let row = GatewayRow {
        pid: process.pid,
        start_ns: process.start_ns,
        comm: process.comm.clone(),
        argv0: process.argv0.clone(),
    };
    if parent.reaper { (None, Some(row)) } else { (Some(row), None) }
}

fn sum(group: &mut Group) {
    group.workers.sort_by_key(|worker| (worker.start_ns, worker.pid));
    group.live = group.workers.len();
    group.oldest_s = group.workers.iter().map(|worker| worker.age_s).max().unwrap_or(0);
    group.rss_kib = group.workers.iter().map(|worker| worker.rss_kib).sum();
    group.pss_kib = group.workers.iter().map(|worker| worker.pss_kib).sum();
    group.terminals = group.workers.iter().filter_map(|worker| worker.terminal).collect();
    group.terminals.sort_unstable();
    group.terminals.dedup();
}

/// Prints the groups as one JSON array.
pub fn json(groups: &[Group], out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, groups)?;
    writeln!(out)
}

/// Prints the groups for people.
pub fn table(groups: &[Group], profile: &str, out: &mut dyn Write) -> io::Result<()> {
    let profile = redact::escape(profile.as_bytes());
    if groups.is_empty() {
        return writeln!(out, "no workers of profile {profile} are running");
    }
    let mut table = Columns::new(COLUMNS);
    for group in groups {
        let style = if group.gateway.is_none() { YELLOW } else { PLAIN };
        table.styled_row(cells(group).map(Cell::from), style);
    }
    table.write(2, None, out)?;
    total(groups, out)
}

fn cells(group: &Group) -> [String; 8] {
    let gateway = match (&group.gateway, &group.adopted_by) {
        (Some(gateway), _) => format!("{} {}", gateway.pid, gateway.comm),
        (None, Some(by)) => format!("adopted by pid {}: gateway unknown", by.pid),
        (None, None) => "parent out of sight: gateway unknown".to_owned(),
    };
    let terminals: Vec<_> = group.terminals.iter().map(|index| format!("pts/{index}")).collect();
    let mut pids: Vec<_> =
        group.workers.iter().take(PIDS_MAX).map(|worker| worker.pid.to_string()).collect();
    if group.live > PIDS_MAX {
        pids.push(format!("+{} more", group.live - PIDS_MAX));
    }
    [
        gateway,
        group.session.clone().unwrap_or_else(|| NONE.to_owned()),
        group.live.to_string(),
        seconds(group.oldest_s),
        mib(group.rss_kib),
        group.pss_kib.map_or_else(|| NONE.to_owned(), mib),
        if terminals.is_empty() { NONE.to_owned() } else { terminals.join(" ") },
        pids.join(" "),
    ]
}

fn total(groups: &[Group], out: &mut dyn Write) -> io::Result<()> {
    let live: usize = groups.iter().map(|group| group.live).sum();
    let rss: u64 = groups.iter().map(|group| group.rss_kib).sum();
    let pss: Option<u64> = groups.iter().map(|group| group.pss_kib).sum();
    let oldest = groups.iter().map(|group| group.oldest_s).max().unwrap_or(0);
    let pss = pss.map_or_else(String::new, |kib| format!(", PSS {} MiB", mib(kib)));
    writeln!(
        out,
        "total: {} in {}, oldest {}, RSS {} MiB{pss}",
        count(live as u64, "worker"),
        count(groups.len() as u64, "group"),
        seconds(oldest),
        mib(rss),
    )
}

fn mib(kib: u64) -> String {
    ((kib + 512) / 1024).to_string()
}

/// A length of time, as everywhere; below a second it is none.
fn seconds(s: u64) -> String {
    if s == 0 { "0s".to_owned() } else { age(s.saturating_mul(1_000_000_000)) }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::model::{Parent, ParentSource, Process, Role, Source, Terminal};

    const SECOND: u64 = 1_000_000_000;

    fn spawn(pid: u32, session: Option<&str>, parent: Option<(u32, bool)>) -> Spawn {
        let parent = parent.map(|(pid, reaper)| Parent {
            process: Process {
                pid,
                start_ns: u64::from(pid) * SECOND,
                comm: format!("comm{pid}"),
                argv0: None,
                launcher: None,
            },
            how: ParentSource::Proc,
            gone: false,
            reaper,
            forker: None,
            forked_only: false,
        });
        Spawn {
            role: Role::Worker,
            pid,
            start_ns: u64::from(pid) * SECOND,
            source: Source::Proc,
            inherited: true,
            parent,
            ancestors: Vec::new(),
            opener: None,
            worker: None,
            comm: "python3".to_owned(),
            uid: 1000,
            sid: 1,
            argv: Vec::new(),
            argv_bytes: 0,
            argv_truncated: false,
            session: session.map(str::to_owned),
            model: None,
            terminal: Some(Terminal { instance: None, index: pid % 2 }),
            helper: None,
            thread: None,
            rule: None,
        }
    }

    fn painted(groups: &[Group]) -> String {
        let mut out = Vec::new();
        table(groups, "hermes", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(groups: &[Group]) -> String {
        strip_str(&painted(groups)).to_string()
    }

    fn busy() -> Vec<Group> {
        let mut child = spawn(30, None, Some((20, false)));
        child.role = Role::Descendant;
        child.worker = Some(spawn(20, None, None).identity());
        let mut spawns = vec![
            spawn(20, Some("K"), Some((7, false))),
            spawn(21, Some("K"), Some((7, false))),
            spawn(22, Some("L"), Some((7, false))),
            spawn(23, Some("K"), Some((1, true))),
            spawn(24, None, None),
            spawn(25, Some("gone"), Some((7, false))),
            child,
        ];
        spawns.extend((40..50).map(|pid| spawn(pid, Some("M"), Some((8, false)))));
        group(&Profile::hermes(), &spawns, 4000 * SECOND, |identity| {
            (identity.pid != 25)
                .then_some((95 * 1024, (identity.pid != 22).then_some(identity.pid.into())))
        })
    }

    #[test]
    fn one_row_a_gateway_and_session() {
        let expected = "\
GATEWAY                               SESSION  LIVE  OLDEST  RSS MiB  PSS MiB  TTY          PIDS
7 comm7                               K           2   1h06m      190        0  pts/0 pts/1  20 21
7 comm7                               L           1   1h06m       95        –  pts/0        22
8 comm8                               M          10   1h06m      950        0  pts/0 pts/1  40 41 42 43 44 45 +4 more
adopted by pid 1: gateway unknown     K           1   1h06m       95        0  pts/1        23
parent out of sight: gateway unknown  –           1   1h06m       95        0  pts/0        24
total: 15 workers in 5 groups, oldest 1h06m, RSS 1425 MiB
";
        assert_eq!(text(&busy()), expected);
    }

    #[test]
    fn the_header_and_unknown_gateways_stand_out() {
        let painted = painted(&busy());
        assert!(painted.starts_with("\x1b[1mGATEWAY"), "{painted}");
        assert_eq!(painted.matches("\x1b[33m").count(), 2, "{painted}");
    }

    #[test]
    fn nothing_runs() {
        assert_eq!(text(&[]), "no workers of profile hermes are running\n");
        let mut out = Vec::new();
        json(&[], &mut out).unwrap();
        assert_eq!(out, b"[]\n");
    }

    #[test]
    fn a_launcher_is_not_counted() {
        let spawns = [
            spawn(20, Some("K"), Some((7, false))),
            spawn(21, Some("K"), Some((20, false))),
            // A worker of another session below a worker is no launch.
            spawn(22, Some("L"), Some((21, false))),
            // Nor is one without a key below another without one.
            spawn(30, None, Some((7, false))),
            spawn(31, None, Some((30, false))),
        ];
        let groups = group(&Profile::hermes(), &spawns, 60 * SECOND, |_| Some((1, None)));
        let seen: Vec<_> = groups
            .iter()
            .map(|group| {
                let worker = &group.workers[0];
                (group.gateway.as_ref().unwrap().pid, group.live, worker.pid, worker.launcher)
            })
            .collect();
        let expected =
            [(7, 1, 21, Some(20)), (21, 1, 22, None), (7, 1, 30, None), (30, 1, 31, None)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_only_launched_a_worker_is_one_with_it() {
        let process = |pid: u32, launcher: Option<&str>| Process {
            launcher: launcher.map(str::to_owned),
            ..spawn(1, None, Some((pid, false))).parent.expect("it has one").process
        };
        // `npm exec` and `sh -c` under gateway 7, and `uv run`, which has a worker's own arguments.
        let mut outer = spawn(20, Some("K"), None);
        outer.parent = spawn(20, None, Some((9, false))).parent;
        outer.parent.as_mut().expect("it has one").process = process(9, Some("sh -c"));
        outer.ancestors = vec![process(8, Some("npm exec")), process(7, None)];
        let spawns = [outer, spawn(21, Some("K"), Some((20, false)))];
        let each = |id: Identity| (id.pid != 9).then_some((u64::from(id.pid), Some(1)));
        let groups = group(&Profile::hermes(), &spawns, 60 * SECOND, each);
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!(group.gateway.as_ref().map(|gateway| gateway.pid), Some(7));
        let [worker] = group.workers.as_slice() else { panic!("{group:?}") };
        // 9 is gone by now.
        assert_eq!((worker.pid, worker.launcher, worker.rss_kib), (21, Some(20), 21 + 20 + 8));
        assert_eq!((group.rss_kib, group.pss_kib), (21 + 20 + 8, Some(3)));
    }

    #[test]
    fn the_names_in_json_are_stable() {
        let mut out = Vec::new();
        json(&busy()[..1], &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let names = |value: &serde_json::Value| -> Vec<String> {
            let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&value[0]),
            [
                "adopted_by",
                "gateway",
                "live",
                "oldest_s",
                "pss_kib",
                "rss_kib",
                "session",
                "terminals",
                "workers"
            ]
        );
        assert_eq!(names(&value[0]["gateway"]), ["argv0", "comm", "pid", "start_ns"]);
        assert_eq!(
            names(&value[0]["workers"][0]),
            [
                "age_s", "launcher", "model", "pid", "pss_kib", "rss_kib", "start_ns", "terminal",
                "uid"
            ]
        );
        assert_eq!(value[0]["gateway"]["pid"], 7);
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 200_000].map(seconds);
        assert_eq!(ages, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "2d07h"]);
    }
}
