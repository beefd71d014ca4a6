use std::collections::{BTreeMap, BTreeSet};

use super::Ports;
use crate::{
    host::{
        clock::{boottime_ns, thread_cpu_ns},
        proc::ProcFs,
    },
    model::{Identity, Process},
    redact,
    sensor::terminal::has_tokens,
};

/// Bytes of an argv in which the tokens are looked for.
const ARGV_BYTES_MAX: usize = 4_096;
/// A search of all processes may take this part of the time that passes, as CPU time.
const SEARCH_PART: u64 = 50;
/// Gateways that are known at a time.
const GATEWAYS_MAX: usize = 64;

/// A gateway that serves several terminals from one process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::sensor) struct FlatGateway {
    pub(in crate::sensor) id: Identity,
    /// TCP ports on which it listens.
    pub(in crate::sensor) ports: Vec<u16>,
}

/// The gateways that hold masters of terminals and listen on a TCP port. Those that have the tokens
/// of an opener are found when a terminal is opened, so that what they do for their first session is
/// seen; others when they have a worker.
#[derive(Debug, Default)]
pub(in crate::sensor) struct FlatGateways {
    known: BTreeMap<Identity, Vec<u16>>,
    /// That one is known by now, or no more, since that was asked for.
    changes: Vec<(bool, FlatGateway)>,
    /// Terminals that had been opened at the last search.
    searched: Option<u64>,
    ended_ns: u64,
    took_ns: u64,
}

impl FlatGateways {
    /// Searches for processes with these tokens, if terminals were opened since the last time and it
    /// is not too soon.
    pub(in crate::sensor) fn search(
        &mut self,
        proc: &ProcFs,
        tokens: &[String],
        opened: u64,
    ) -> Vec<Process> {
        let began = boottime_ns();
        let due = began >= self.ended_ns.saturating_add(self.took_ns.saturating_mul(SEARCH_PART));
        if tokens.is_empty() || self.searched == Some(opened) || !due {
            return Vec::new();
        }
        self.searched = Some(opened);
        let cpu_began = thread_cpu_ns();
        let pids = proc.pids().unwrap_or_default().into_iter();
        let found = pids.filter_map(|pid| {
            let argv = proc.cmdline(pid, ARGV_BYTES_MAX).ok()??;
            if !has_tokens(&argv, tokens) {
                return None;
            }
            let stat = proc.stat(pid).ok()??;
            let process = Process {
                launcher: None,
                pid,
                start_ns: stat.start_ns,
                comm: redact::escape(&stat.comm),
                argv0: argv.tokens().first().map(|token| redact::argv0(token)),
            };
            Some((stat.ppid, process))
        });
        let found: Vec<(u32, Process)> = found.take(GATEWAYS_MAX).collect();
        // A child that it forked and that has not executed yet has its argv, and its masters.
        let pids: BTreeSet<u32> = found.iter().map(|(_, process)| process.pid).collect();
        let found = found.into_iter().filter(|(ppid, _)| !pids.contains(ppid));
        let found = found.map(|(_, process)| process).collect();
        self.ended_ns = boottime_ns();
        self.took_ns = thread_cpu_ns().saturating_sub(cpu_began);
        found
    }

    /// These hold masters of terminals; those of them that listen are gateways of a flat tree.
    pub(in crate::sensor) fn hold_masters(
        &mut self,
        proc: &ProcFs,
        ports: &mut Ports,
        holders: &BTreeSet<Identity>,
    ) {
        for &id in holders {
            if self.known.contains_key(&id) || self.known.len() >= GATEWAYS_MAX {
                continue;
            }
            let listening = ports.listening(proc, id.pid);
            if !listening.is_empty() {
                self.known.insert(id, listening.clone());
                self.changes.push((true, FlatGateway { id, ports: listening }));
            }
        }
    }

    /// The ports of a gateway.
    pub(in crate::sensor) fn ports_of(&self, id: Identity) -> Option<&[u16]> {
        self.known.get(&id).map(Vec::as_slice)
    }

    /// Forgets those that are gone.
    pub(in crate::sensor) fn retain(&mut self, mut lives: impl FnMut(Identity) -> bool) {
        let gone: Vec<Identity> = self.known.keys().copied().filter(|id| !lives(*id)).collect();
        for id in gone {
            let ports = self.known.remove(&id).unwrap_or_default();
            self.changes.push((false, FlatGateway { id, ports }));
        }
    }

    /// Those that are known since the last time, and those that are no more.
    pub(in crate::sensor) fn take_changes(&mut self) -> Vec<(bool, FlatGateway)> {
        std::mem::take(&mut self.changes)
    }
}
