//! What /proc shows beside what the kernel programs told: what was there before them, what is there
//! after a loss.

use std::{collections::HashMap, mem};

use anyhow::{Context as _, Result};
use slashtrace_ebpf::{FAMILY_SHARE, Tracked};

use super::{EbpfSensor, translate::wire_role};
use crate::{
    host::{
        clock::boottime_ns,
        proc::{self, inferred_exit},
    },
    model::{Body, Exit, Identity, Observation, Role, Source, Spawn},
};

impl EbpfSensor {
    /// What was there before the programs: workers, what is below and above them.
    pub(super) fn look_at_what_is_there(&mut self) -> Result<()> {
        let found = proc::snapshot(&self.proc, &self.profile, &mut self.surroundings.book)
            .context("cannot read /proc")?;
        // What the kernel saw meanwhile comes first; of a worker seen twice, it knows more.
        self.translate_all();
        let left_out = self.adopt_all(found);
        self.left_out(left_out);
        Ok(())
    }

    /// Observes the ends of those that an earlier recording knew and that ended before they were
    /// tracked again.
    pub(super) fn end_those_of_before(&mut self, before: &[(Identity, Role)]) {
        for (identity, role) in before {
            let tracked = self.translator.role_of(*identity).is_some();
            if tracked || self.surroundings.has_ended(*identity) {
                continue;
            }
            if self.is_alive(*identity) {
                // It is not found by what it looks like any more: nobody else tells of its end.
                self.of_before.push((*identity, *role));
            } else {
                self.exited(inferred_exit(*identity, *role, Source::Proc));
            }
        }
    }

    /// After loss: compares what is known with what is there. Where `lost` is not set only looks for
    /// those that are not tracked: no end was missed.
    pub(super) fn resync(&mut self, lost: bool) -> Result<()> {
        let known: Vec<(Identity, Role)> = self.translator.tracked().collect();
        let found = proc::resync(&self.proc, &self.profile, &mut self.surroundings.book, &known)
            .context("cannot read /proc")?;
        // That may have taken a while: who ended meanwhile has a record.
        self.translate_all();
        let ended = found.exits.into_iter().filter(|_| lost);
        self.gone.extend(ended.map(|exit| (exit.identity(), exit.role)));
        // Who was left out and told of is so still: that is no further loss.
        self.untracked = self.adopt_all(found.spawns) > 0;
        Ok(())
    }

    /// Has the kernel track processes that /proc shows, as far as there are places for them. How many
    /// there was none for.
    pub(super) fn adopt_all(&mut self, spawns: Vec<Spawn>) -> u64 {
        let mut left_out = 0;
        let mut families: HashMap<Identity, u32> = HashMap::new();
        for spawn in spawns {
            if let Some(worker) = spawn.worker {
                let tables = &self.object.tables;
                let known = || tables.get(worker.pid).map_or(0, |worker| worker.family);
                let family = families.entry(worker).or_insert_with(known);
                *family += 1;
                if *family > FAMILY_SHARE {
                    left_out += 1;
                    continue;
                }
            }
            let mut batch = Vec::new();
            left_out += u64::from(!self.adopt_into(spawn, &mut batch));
            self.keep(batch);
        }
        left_out
    }

    /// Says that there was no place for so many processes. They are looked for again now and then.
    pub(super) fn left_out(&mut self, processes: u64) {
        if processes > 0 {
            self.untracked = true;
            let gap = self.ledger.left_out(processes);
            self.pending
                .push_back(Observation { boottime_ns: boottime_ns(), body: Body::Gap(gap) });
        }
    }

    /// Has the kernel track a process that /proc shows, and what is above it. False if there is no
    /// place for it: then nothing is said of it, because nobody would be told of its end.
    pub(super) fn adopt_into(&mut self, spawn: Spawn, batch: &mut Vec<Observation>) -> bool {
        let identity = spawn.identity();
        let known = self.translator.role_of(identity);
        // Since /proc was read it may have ended, and the record of that may have been translated: it
        // would be born again. Whether it looks alive says nothing: a process that has passed the exit
        // program does for a while.
        if known.is_none() && self.surroundings.has_ended(identity) {
            return true;
        }
        // A known descendant may have become a worker.
        if known.is_some_and(|role| role == spawn.role || spawn.role != Role::Worker) {
            return true;
        }
        let worker = spawn.worker.unwrap_or(identity);
        if !self.track(identity, spawn.role, worker, spawn.uid) {
            return false;
        }
        let mut above_fit = true;
        if spawn.role == Role::Worker
            && let Some(parent) = &spawn.parent
            && !parent.reaper
        {
            let nobody = Identity { pid: 0, start_ns: 0 };
            let gateway = parent.process.identity();
            let above = spawn.ancestors.iter().map(|it| (it.identity(), Role::Ancestor));
            for (id, role) in [(gateway, Role::Gateway)].into_iter().chain(above) {
                let unknown = self.translator.role_of(id).is_none();
                let ended = unknown && self.surroundings.has_ended(id);
                above_fit &= ended || self.track(id, role, nobody, spawn.uid);
            }
        }
        let now = boottime_ns();
        let role = spawn.role;
        let mut above: Vec<(Identity, Role)> = Vec::new();
        if let Some(parent) = &spawn.parent
            && role == Role::Worker
            && !parent.reaper
        {
            above.push((parent.process.identity(), Role::Gateway));
            above.extend(spawn.ancestors.iter().map(|p| (p.identity(), Role::Ancestor)));
        }
        let spawned = Observation { boottime_ns: now, body: Body::Spawn(Box::new(spawn)) };
        self.surroundings.observe(spawned, batch);
        for (identity, role) in [(identity, role)].into_iter().chain(above) {
            self.end_if_gone(identity, role);
            self.young.push((identity, role));
        }
        above_fit
    }

    /// Looks again at whoever was put into the kernel's tables since the last round: a process that
    /// has passed the exit program, and is no zombie yet, looks alive in /proc.
    pub(super) fn look_at_young(&mut self) {
        for (identity, role) in mem::take(&mut self.young) {
            self.end_if_gone(identity, role);
        }
    }

    /// A process that the kernel is to track since this moment may have ended before the kernel knew
    /// that it is to tell: then it would be in its table for ever. Or the kernel had tracked it, told
    /// of its end, and got the entry after that.
    pub(super) fn end_if_gone(&mut self, identity: Identity, role: Role) {
        if self.is_alive(identity) {
            return;
        }
        // Where there is no entry it passed the exit program, whose record knows how it ended.
        let had_entry = self.object.tables.untrack_process(identity);
        if had_entry && self.translator.role_of(identity).is_some() {
            self.gone.push((identity, role));
        }
    }

    /// Observes the ends of those that no record tells of. The exit program writes before its process
    /// looks ended, so whatever was written when they had ended must have been translated.
    pub(super) fn observe_ends(&mut self, gone: Vec<(Identity, Role)>) {
        for (identity, role) in gone {
            if self.translator.role_of(identity).is_some() {
                self.exited(inferred_exit(identity, role, Source::Proc));
            }
        }
    }

    /// The kernel cannot ask whether the forker of a sibling (`CLONE_PARENT`) lives, and tracks it.
    /// Who is a zombie or gone has passed the exit program, and has an entry for ever.
    pub(super) fn untrack_dead_forker(&mut self, body: &Body) {
        if let Body::Spawn(spawn) = body
            && let Some(parent) = spawn.parent.as_ref().filter(|parent| parent.gone)
            && !self.is_alive(parent.process.identity())
        {
            self.object.tables.untrack_process(parent.process.identity());
        }
    }

    /// Has the kernel forget who ended without its noticing. Their ends are observed in the next round.
    pub(super) fn sweep(&mut self) {
        let of_before = mem::take(&mut self.of_before);
        self.end_those_of_before(&of_before);
        let proc = &self.proc;
        let removed = self.object.tables.sweep(|pid, start_ns| match proc.stat(pid) {
            Ok(Some(stat)) => stat.ended() || !proc.is_same(Identity { pid, start_ns }, &stat),
            Ok(None) => true,
            Err(_) => false,
        });
        for (pid, tracked) in removed {
            let book = &mut self.surroundings.book;
            let identity = self.translator.tracked_identity(pid, tracked.start_ns, book);
            if let Some(role) = self.translator.role_of(identity) {
                self.gone.push((identity, role));
            }
        }
    }

    pub(super) fn is_alive(&self, identity: Identity) -> bool {
        matches!(self.proc.stat(identity.pid), Ok(Some(stat))
            if self.proc.is_same(identity, &stat) && !stat.ended())
    }

    /// False if there is no place for it.
    fn track(&mut self, identity: Identity, role: Role, worker: Identity, owner: u32) -> bool {
        let before = self.translator.role_of(identity);
        let tracked = Tracked {
            start_ns: identity.start_ns,
            worker_start_ns: worker.start_ns,
            reads: self.reads_before.get(&identity).copied().unwrap_or(0),
            worker: worker.pid,
            role: wire_role(role) as u32,
            owner,
            family: 0,
        };
        let fits = match before {
            // It may be in the table as what it is, or as less.
            Some(before) if before == role || role != Role::Worker => true,
            Some(_) => self.object.tables.correct(identity, Some(tracked)),
            None => self.object.tables.track(identity.pid, tracked),
        };
        fits && {
            self.translator.learn(identity, role);
            true
        }
    }

    fn exited(&mut self, exit: Exit) {
        self.translator.forget(exit.identity());
        let mut batch = Vec::new();
        let exited = Observation { boottime_ns: boottime_ns(), body: Body::Exit(exit) };
        self.surroundings.observe(exited, &mut batch);
        self.keep(batch);
    }
}
