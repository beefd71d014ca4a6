//! What /proc shows beside what the kernel programs told: what was there before them, what is there
//! after a loss.

use anyhow::{Context as _, Result};
use slashtrace_ebpf::Tracked;

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
        for spawn in found {
            self.adopt(spawn)?;
        }
        Ok(())
    }

    /// After loss: compares what is known with what is there.
    pub(super) fn resync(&mut self) -> Result<()> {
        let known: Vec<(Identity, Role)> = self.translator.tracked().collect();
        let found = proc::resync(&self.proc, &self.profile, &mut self.surroundings.book, &known)
            .context("cannot read /proc")?;
        for exit in found.exits {
            self.exited(exit);
        }
        for spawn in found.spawns {
            self.adopt(spawn)?;
        }
        Ok(())
    }

    /// Has the kernel track a process that /proc shows, and what is above it.
    pub(super) fn adopt(&mut self, spawn: Spawn) -> Result<()> {
        let mut batch = Vec::new();
        let adopted = self.adopt_into(spawn, &mut batch);
        self.keep(batch);
        adopted
    }

    /// As [`Self::adopt`], between what records came to.
    pub(super) fn adopt_into(&mut self, spawn: Spawn, batch: &mut Vec<Observation>) -> Result<()> {
        let identity = spawn.identity();
        let known = self.translator.role_of(identity);
        // A known descendant may have become a worker.
        if known.is_some_and(|role| role == spawn.role || spawn.role != Role::Worker) {
            return Ok(());
        }
        let worker = spawn.worker.unwrap_or(identity);
        self.track(identity, spawn.role, worker)?;
        if spawn.role == Role::Worker
            && let Some(parent) = &spawn.parent
            && !parent.reaper
        {
            self.track(parent.process.identity(), Role::Gateway, Identity { pid: 0, start_ns: 0 })?;
            for above in &spawn.ancestors {
                self.track(above.identity(), Role::Ancestor, Identity { pid: 0, start_ns: 0 })?;
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
        // Any of them may have ended before the kernel knew that it is to tell.
        for (identity, role) in [(identity, role)].into_iter().chain(above) {
            if self.is_alive(identity) || self.translator.role_of(identity).is_none() {
                continue;
            }
            if !self.object.untrack_process(identity) {
                // It passed the exit program after all, whose record knows how it ended.
                continue;
            }
            self.translator.forget(identity);
            let exit = inferred_exit(identity, role, Source::Proc);
            let exited = Observation { boottime_ns: boottime_ns(), body: Body::Exit(exit) };
            self.surroundings.observe(exited, batch);
        }
        Ok(())
    }

    /// The kernel cannot ask whether the forker of a sibling (`CLONE_PARENT`) lives, and tracks it.
    /// Who is a zombie or gone has passed the exit program, and has an entry for ever.
    pub(super) fn untrack_dead_forker(&mut self, body: &Body) {
        if let Body::Spawn(spawn) = body
            && let Some(parent) = spawn.parent.as_ref().filter(|parent| parent.gone)
            && !self.is_alive(parent.process.identity())
        {
            self.object.untrack_process(parent.process.identity());
        }
    }

    /// Has the kernel forget who ended without its noticing, and reports their end.
    pub(super) fn sweep(&mut self) {
        let proc = &self.proc;
        let removed = self.object.sweep(|pid, start_ns| match proc.stat(pid) {
            Ok(Some(stat)) => stat.ended() || !proc.is_same(Identity { pid, start_ns }, &stat),
            Ok(None) => true,
            Err(_) => false,
        });
        for (pid, tracked) in removed {
            let book = &mut self.surroundings.book;
            let identity = self.translator.tracked_identity(pid, tracked.start_ns, book);
            if let Some(role) = self.translator.role_of(identity) {
                let (code, signal, reads) = (None, None, None);
                let (pid, start_ns, source) = (pid, identity.start_ns, Source::Proc);
                self.exited(Exit { pid, start_ns, role, code, signal, reads, source });
            }
        }
    }

    pub(super) fn is_alive(&self, identity: Identity) -> bool {
        matches!(self.proc.stat(identity.pid), Ok(Some(stat))
            if self.proc.is_same(identity, &stat) && !stat.ended())
    }

    fn track(&mut self, identity: Identity, role: Role, worker: Identity) -> Result<()> {
        let before = self.translator.role_of(identity);
        if !self.translator.learn(identity, role) {
            return Ok(());
        }
        let tracked = Tracked {
            start_ns: identity.start_ns,
            worker_start_ns: worker.start_ns,
            reads: 0,
            worker: worker.pid,
            role: wire_role(role) as u32,
        };
        if before.is_some_and(|before| before != role) {
            self.object.correct(identity.pid, Some(tracked));
            return Ok(());
        }
        self.object.track(identity.pid, tracked)
    }

    fn exited(&mut self, exit: Exit) {
        self.translator.forget(exit.identity());
        let mut batch = Vec::new();
        let exited = Observation { boottime_ns: boottime_ns(), body: Body::Exit(exit) };
        self.surroundings.observe(exited, &mut batch);
        self.keep(batch);
    }
}
