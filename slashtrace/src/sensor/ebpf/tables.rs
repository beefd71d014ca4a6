//! The kernel programs' tables of tracked processes, as userspace adds to them, corrects and sweeps
//! them. Full is a state, never an error: whoever has no place is not tracked, and that is counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData},
};
use slashtrace_ebpf::{
    DESCENDANTS_MAX, DESCENDANTS_SHARE, Role, TRACKED_MAX, TRACKED_SHARE, Tracked, is_same_start,
};

use super::{
    marks::{Marks, Shares},
    object::take,
};
use crate::model::Identity;

/// A map value that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Tracked);

// SAFETY: `Tracked` is `repr(C)`, of integers, and without padding.
unsafe impl Pod for Value {}

type Table = HashMap<MapData, u32, Value>;

/// The tables.
pub struct Tables {
    /// Workers and who is above them.
    workers: Table,
    descendants: Table,
    marks: Marks,
    shares: Shares,
}

impl Tables {
    /// Takes them out of the loaded object; `spread` is what its programs were given.
    ///
    /// # Errors
    /// If one is missing, or cannot be mapped.
    pub fn take(ebpf: &mut Ebpf, spread: u32) -> Result<Self> {
        Ok(Self {
            workers: HashMap::try_from(take(ebpf, "TRACKED")?)?,
            descendants: HashMap::try_from(take(ebpf, "DESCENDANTS")?)?,
            marks: Marks::map(&Array::try_from(take(ebpf, "MARKS")?)?)
                .context("cannot map the kernel programs' table of marks")?,
            shares: Shares::map(&Array::try_from(take(ebpf, "SHARES")?)?, spread)
                .context("cannot map the kernel programs' table of shares")?,
        })
    }

    /// Has the kernel track a process that was there before the programs. Keeps what the kernel
    /// itself wrote meanwhile; what an earlier process of that pid left is replaced. False if there
    /// is no place for it.
    pub fn track(&mut self, pid: u32, tracked: Tracked) -> bool {
        match self.get(pid) {
            Some(known) if is_same(known.start_ns, tracked.start_ns) => return true,
            // It has ended: the pid is another's.
            Some(known) if known.start_ns > tracked.start_ns => return true,
            Some(_) => {
                self.untrack(pid);
            }
            None => {}
        }
        // The kernel may have been faster.
        self.has_share(tracked) && (self.insert(pid, tracked) || self.get(pid).is_some())
    }

    fn insert(&mut self, pid: u32, tracked: Tracked) -> bool {
        const BPF_NOEXIST: u64 = 1;
        let below = is_below(tracked);
        self.marks.add(pid);
        self.shares.add(tracked.owner, below);
        if self.table(below).insert(pid, Value(tracked), BPF_NOEXIST).is_ok() {
            return true;
        }
        self.marks.remove(pid);
        self.shares.remove(tracked.owner, below);
        false
    }

    /// Has the kernel know of a process what it should have known: as what to track it, or nothing.
    /// An entry of another process that has its pid by now stays. False if there is no place for it.
    pub fn correct(&mut self, process: Identity, tracked: Option<Tracked>) -> bool {
        const BPF_EXIST: u64 = 2;
        let pid = process.pid;
        let Some(tracked) = tracked else {
            self.untrack_process(process);
            return true;
        };
        match self.get(pid) {
            Some(known) if !is_same(known.start_ns, process.start_ns) => {
                // The later one of two that had the pid is there.
                known.start_ns > process.start_ns || self.track(pid, tracked)
            }
            Some(known) if is_below(known) == is_below(tracked) => {
                // On whose account it is stays.
                let (owner, family) = (known.owner, known.family);
                let tracked = Tracked { owner, family, ..tracked };
                let below = is_below(tracked);
                // It may have been forgotten meanwhile: then it has ended.
                drop(self.table(below).insert(pid, Value(tracked), BPF_EXIST));
                true
            }
            // It moves: where there is no place for it in the other table it stays what it was.
            Some(known) => {
                let moved = self.has_share(tracked) && self.insert(pid, tracked);
                if moved {
                    self.remove(pid, is_below(known));
                }
                moved
            }
            None => self.track(pid, tracked),
        }
    }

    /// Whether the share of a process's owner has room for it.
    fn has_share(&self, tracked: Tracked) -> bool {
        let below = is_below(tracked);
        let share = if below { DESCENDANTS_SHARE } else { TRACKED_SHARE };
        tracked.owner == 0 || self.shares.of(tracked.owner, below) < share.cast_signed()
    }

    /// What the kernel knows of a tracked process.
    pub fn get(&self, pid: u32) -> Option<Tracked> {
        let found = self.workers.get(&pid, 0).or_else(|_| self.descendants.get(&pid, 0));
        found.ok().map(|Value(tracked)| tracked)
    }

    /// How many processes the kernel tracks.
    pub fn total(&self) -> u64 {
        self.marks.total()
    }

    /// Has the kernel forget a process. False if it had already: after its end there is a record of
    /// that then.
    pub fn untrack(&mut self, pid: u32) -> bool {
        [false, true].map(|below| self.remove(pid, below)).contains(&true)
    }

    /// Takes a process out of one of the tables. False if it was not there.
    fn remove(&mut self, pid: u32, below: bool) -> bool {
        let Ok(Value(known)) = self.table(below).get(&pid, 0) else { return false };
        let removed = self.table(below).remove(&pid).is_ok();
        if removed {
            self.marks.remove(pid);
            self.shares.remove(known.owner, below);
        }
        // A worker's count of its descendants is the kernel's to change: one that is taken out
        // here stays counted to it, which limits that worker alone.
        removed
    }

    /// As [`Self::untrack`], unless the entry is of another process that got that pid.
    pub fn untrack_process(&mut self, process: Identity) -> bool {
        self.get(process.pid).is_some_and(|known| is_same(known.start_ns, process.start_ns))
            && self.untrack(process.pid)
    }

    /// Has the kernel forget those who have ended without its noticing, as `has_ended` (a pid and
    /// the start time in the map, ns) finds out: the exit program runs before a process becomes a
    /// zombie, so whoever is one, or is gone, and still has an entry will never be reported. Gives
    /// the entries that were removed. Counts the shares again, too.
    pub fn sweep(&mut self, has_ended: impl Fn(u32, u64) -> bool) -> Vec<(u32, Tracked)> {
        let mut removed = Vec::new();
        for below in [false, true] {
            for pid in self.entries(below).into_keys() {
                // Looked up before and after: what is still there after the end is stale.
                let Some(before) = self.get(pid) else { continue };
                if !has_ended(pid, before.start_ns) {
                    continue;
                }
                let unchanged = self.get(pid).is_some_and(|now| now.start_ns == before.start_ns);
                if unchanged && self.untrack(pid) {
                    removed.push((pid, before));
                }
            }
            let counted = self.shares.all(below);
            let owners = self.entries(below).into_values().map(|known| known.owner);
            self.shares.correct(below, &counted, owners);
        }
        removed
    }

    /// Every entry of a table. Where entries come and go all the time the kernel begins anew at each
    /// that is gone (`htab_map_get_next_key`, kernel/bpf/hashtab.c), so an end is put to that.
    fn entries(&self, below: bool) -> BTreeMap<u32, Tracked> {
        let (table, most) =
            if below { (&self.descendants, DESCENDANTS_MAX) } else { (&self.workers, TRACKED_MAX) };
        let entries = table.iter().filter_map(Result::ok).take(2 * most as usize);
        entries.map(|(pid, Value(tracked))| (pid, tracked)).collect()
    }

    fn table(&mut self, below: bool) -> &mut Table {
        if below { &mut self.descendants } else { &mut self.workers }
    }
}

/// Whether a process belongs into the table of descendants.
fn is_below(tracked: Tracked) -> bool {
    tracked.role == Role::Descendant as u32
}

/// Whether two start times are one process's; each may be rounded down to a tick.
fn is_same(one: u64, other: u64) -> bool {
    is_same_start(one, other) || is_same_start(other, one)
}
