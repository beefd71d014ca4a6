//! Goes on where an earlier recording of the same folder ended: what it left known, less what ended
//! since.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;

use super::start::boot_id;
use crate::{
    evidence::{Known, checkpoints, last_known},
    host::{
        clock::{boottime_ns, wall_time},
        devpts::Devpts,
        proc::{ProcFs, inferred_exit},
    },
    model::{
        Body, Checkpoint, FORMAT_VERSION, Gap, GapReason, Identity, Process, Record, SensorKind,
        Source, TerminalEvent, TerminalState,
    },
    profile::Profile,
    redact::Redaction,
    roster::span,
    sensor::Before,
};

/// That nobody watched.
pub(super) const NOT_WATCHED: Gap =
    Gap { reason: GapReason::NotWatched, lost: 0, uid: None, resynced: true };

/// What a recording goes on from.
#[derive(Clone, Debug, Default)]
pub struct Resumed {
    /// `seq` of the last record; those that follow go on after it.
    pub seq: u64,
    /// What is known, if it is of this boot and of workers of the same rules.
    pub checkpoints: Vec<Checkpoint>,
    /// The same for the sensors.
    pub before: Before,
    /// Which sensors saw that, and whether they counted calls: others see other things.
    pub seen_by: Option<(SensorKind, bool)>,
    /// What people are to know.
    pub note: Option<String>,
}

impl Resumed {
    /// What the last file of a folder leaves known. None if it has none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from(folder: &Path, profile: &Profile, redaction: &Redaction) -> Result<Option<Self>> {
        let Some(known) = last_known(folder)? else { return Ok(None) };
        let seq = known.last.seq;
        let nothing = |why: &str| Ok(Some(Self::afresh(seq, why)));
        if known.start.boot_id.is_none() || known.start.boot_id != boot_id() {
            return nothing("the machine has rebooted");
        }
        if known.start.profile.workers != profile.workers {
            return nothing("the rules for workers have changed");
        }
        if known.start.pseudonyms != Some(redaction.fingerprint()) {
            return nothing("session keys are shown in another way");
        }
        Self::living(known, &ProcFs::new("/proc")).map(Some)
    }

    /// The same for sensors that turned out to be these: what others saw is not taken over.
    #[must_use]
    pub fn for_sensors(self, kind: SensorKind, calls_counted: bool) -> Self {
        if self.seen_by.is_none_or(|by| by == (kind, calls_counted)) {
            return self;
        }
        Self::afresh(self.seq, "other sensors are in use, or calls are counted in another way")
    }

    /// Numbers go on, and nothing else.
    fn afresh(seq: u64, why: &str) -> Self {
        let note = format!("does not resume from earlier evidence: {why}");
        Self { seq, note: Some(note), ..Self::default() }
    }

    fn living(known: Known, proc: &ProcFs) -> Result<Self> {
        let now = boottime_ns();
        let Known { start, mut records, roster, last } = known;
        let mut seq = last.seq;
        let mut add = |records: &mut Vec<Record>, body: Body| {
            seq += 1;
            let (v, time) = (FORMAT_VERSION, wall_time(now));
            records.push(Record { v, seq, time, boottime_ns: now, body });
        };
        let (processes, ended): (Vec<_>, Vec<_>) =
            roster.living().into_iter().partition(|(id, _)| lives(proc, *id));
        let mut terminals = Vec::new();
        for event in open_terminals(&records) {
            match fate(proc, &event, &last) {
                Fate::Open => terminals.push(event),
                Fate::Closed => {
                    let (state, source) = (TerminalState::Closed, Source::Proc);
                    let event = TerminalEvent { state, source, ..event };
                    add(&mut records, Body::Terminal(Box::new(event)));
                }
                Fate::Unknown => {}
            }
        }
        for (id, role) in &ended {
            add(&mut records, Body::Exit(inferred_exit(*id, *role, Source::Proc)));
        }
        let zombies = roster.zombies();
        // It is judged with that in mind; the recording says it again for people.
        add(&mut records, Body::Gap(NOT_WATCHED));
        let workers = roster.totals().live;
        let unwatched = span(now.saturating_sub(last.boottime_ns));
        let note = format!(
            "resumes from earlier evidence: {} known; nobody watched for {unwatched}, and {} ended in \
             that time",
            count(workers as usize, "worker"),
            count(ended.len(), "process")
        );
        Ok(Self {
            seq,
            checkpoints: checkpoints(records)?,
            before: Before { processes, reads: roster.counted(), terminals, zombies },
            seen_by: Some((start.sensor, start.calls_counted)),
            note: Some(note),
        })
    }
}

/// `1 worker`, `2 workers`.
fn count(n: usize, what: &str) -> String {
    let plural = if what.ends_with('s') { "es" } else { "s" };
    format!("{n} {what}{}", if n == 1 { "" } else { plural })
}

fn lives(proc: &ProcFs, id: Identity) -> bool {
    // Whom one may not look at is not known to have ended.
    !matches!(proc.stat(id.pid), Ok(None))
        && proc.stat(id.pid).ok().flatten().is_none_or(|stat| proc.is_same(id, &stat))
}

/// The terminals that were open at the end, as they were last told of.
fn open_terminals(records: &[Record]) -> Vec<TerminalEvent> {
    let mut open = BTreeMap::new();
    for record in records {
        let Body::Terminal(event) = &record.body else { continue };
        let key = (event.instance, event.index, event.opened_ns);
        if event.state == TerminalState::Closed {
            open.remove(&key);
        } else {
            open.insert(key, (**event).clone());
        }
    }
    open.into_values().collect()
}

/// What became of a terminal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Open,
    Closed,
    /// Its index is in use, and it cannot be said whether by it.
    Unknown,
}

fn fate(proc: &ProcFs, event: &TerminalEvent, last: &Record) -> Fate {
    let identities = |process: &Option<Process>| process.as_ref().map(Process::identity);
    let of_it = event.processes.iter().copied().chain(identities(&event.leader));
    let on_it: Vec<Identity> = of_it.filter(|id| lives(proc, *id)).collect();
    let master = identities(&event.master).filter(|id| lives(proc, *id));
    let here = Devpts::at(Path::new("/dev/pts")).into_iter();
    let theirs = on_it.iter().copied().chain(master).filter_map(|id| Devpts::of(proc, id.pid));
    let Some(devpts) = here.chain(theirs).find(|it| it.instance() == event.instance) else {
        // A container's, with everybody in it.
        return if on_it.is_empty() && master.is_none() { Fate::Closed } else { Fate::Unknown };
    };
    match devpts.list() {
        Ok(there) if !there.contains(&event.index) => return Fate::Closed,
        Ok(_) => {}
        Err(_) => return Fate::Unknown,
    }
    // Its node is made anew each time that the index is opened (devpts_pty_new, fs/devpts/inode.c).
    let leads = |id: &Identity| {
        let stat = proc.stat(id.pid).ok().flatten();
        stat.and_then(|stat| stat.terminal).is_some_and(|at| at.index == event.index)
    };
    if devpts.changed(event.index).is_some_and(|changed| changed <= last.time)
        || on_it.iter().any(leads)
    {
        Fate::Open
    } else if on_it.is_empty() && master.is_none() {
        Fate::Closed
    } else {
        Fate::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_sensors_saw_is_not_taken_over() {
        let resumed = Resumed {
            seq: 7,
            checkpoints: vec![Checkpoint::default()],
            seen_by: Some((SensorKind::Ebpf, true)),
            ..Resumed::default()
        };
        let same = resumed.clone().for_sensors(SensorKind::Ebpf, true);
        assert_eq!((same.checkpoints.len(), same.note), (1, None));
        for (kind, counted) in [(SensorKind::Ebpf, false), (SensorKind::Poll, true)] {
            let other = resumed.clone().for_sensors(kind, counted);
            assert_eq!((other.seq, other.checkpoints.len()), (7, 0));
            assert!(other.note.is_some_and(|note| note.contains("does not resume")));
        }
    }

    #[test]
    fn people_read_numbers() {
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(0, "process"), "0 processes");
        assert_eq!(count(2, "worker"), "2 workers");
    }
}
