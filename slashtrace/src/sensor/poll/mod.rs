//! The poll sensor set: /proc alone, read every interval, for people without root or BPF. `table`
//! remembers what was there and says what changed.
//! May touch: /proc through `proc` and `sampler`, the clock.

mod capabilities;
mod table;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{
    Description, Last, Options, clients::ClientsWatch, program::ProgramWatch,
    terminal::TerminalWatch,
};
use crate::host::{
    clock,
    proc::{ARGV_SEARCHED_BYTES, IdentityBook, ProcFs},
};
use crate::model::{Body, Limits, Observation, SensorKind};
use table::Table;

/// Longest time between two readings of /proc.
const SLOWEST: Duration = Duration::from_secs(1);
/// Shortest: a reading takes some milliseconds.
const FASTEST: Duration = Duration::from_millis(20);

/// The poll sensor set.
#[derive(Debug)]
pub struct PollSensor {
    table: Table,
    clients: ClientsWatch,
    terminals: TerminalWatch,
    programs: ProgramWatch,
    description: Description,
    interval: Duration,
    /// When /proc is read next.
    due: Instant,
    /// Observed and not handed over yet.
    pending: Vec<Observation>,
}

impl PollSensor {
    /// Reads /proc for the first time: every worker that is there is `inherited`.
    pub fn start(options: &Options) -> Result<Self> {
        Self::start_at(ProcFs::default(), options)
    }

    fn start_at(proc: ProcFs, options: &Options) -> Result<Self> {
        let interval = options.sample_interval.clamp(FASTEST, SLOWEST);
        let clients = ClientsWatch::new(proc.clone());
        let mut terminals = TerminalWatch::start(proc.clone(), options.profile.terminal.clone());
        let mut programs = ProgramWatch::new(proc.clone(), &options.profile);
        let mut description = Description {
            kind: SensorKind::Poll,
            capabilities: {
                let mut all = capabilities::of(&proc, interval, options.count_calls);
                all.push(clients.capability());
                all
            },
            calls_counted: false,
            limits: Limits {
                argv_searched_bytes: ARGV_SEARCHED_BYTES as u32,
                ring_bytes: 0,
                tracked_max: IdentityBook::DEFAULT_MAX as u32,
                sample_interval_ms: options.sample_interval.as_millis() as u64,
            },
        };
        description.capabilities.push(terminals.capability());
        let root = proc.root().to_owned();
        let mut table = Table::new(proc, options.profile.clone(), options.sample_interval);
        let found = table.round(clock::boottime_ns()).with_context(|| {
            format!("cannot read {0}; is it mounted? `mount -t proc proc {0}`", root.display())
        })?;
        let pending = complete(&mut terminals, &mut programs, found);
        let mut sensor = Self {
            table,
            clients,
            terminals,
            programs,
            description,
            interval,
            due: Instant::now() + interval,
            pending,
        };
        for observation in &sensor.pending {
            sensor.clients.see(&observation.body);
        }
        Ok(sensor)
    }

    /// What it can do here.
    pub fn describe(&self) -> Description {
        self.description.clone()
    }

    /// Waits until something changed. Cancel-safe: it only ever waits for the time to pass.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        while self.pending.is_empty() {
            tokio::select! {
                () = self.terminals.readable() => {
                    self.pending = self.terminals.take();
                    continue;
                }
                () = tokio::time::sleep_until(self.due) => {}
            }
            self.pending = self.read()?;
            // Late rounds (the machine slept) are not made up for.
            self.due = (self.due + self.interval).max(Instant::now());
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Reads /proc a last time and stops.
    pub fn finish(mut self) -> Result<Last> {
        let last = self.read()?;
        self.pending.extend(last);
        Ok(Last {
            observations: self.pending,
            counters: self.table.counters(),
            // What lived and died between two readings is unknown, and said so at the start;
            // nothing that is *known* can have gone missing.
            complete: true,
        })
    }

    fn read(&mut self) -> Result<Vec<Observation>> {
        let now = clock::boottime_ns();
        let found = self.table.round(now).context("cannot read /proc any more")?;
        let mut found = complete(&mut self.terminals, &mut self.programs, found);
        let mut clients = Vec::new();
        for observation in &found {
            self.clients.see(&observation.body);
            if let Body::Spawn(spawn) = &observation.body {
                clients.extend(self.clients.spawned(spawn, now));
            }
        }
        found.extend(clients);
        found.extend(self.terminals.take());
        found.extend(self.clients.round(now));
        found.extend(self.terminals.round());
        // There is no kernel program to be told.
        drop(self.terminals.take_changes());
        Ok(found)
    }
}

/// Puts what is to be said of terminals and gateways before the spawns that it is said for.
fn complete(
    terminals: &mut TerminalWatch,
    programs: &mut ProgramWatch,
    found: Vec<Observation>,
) -> Vec<Observation> {
    let mut all = Vec::with_capacity(found.len());
    for mut observation in found {
        if let Body::Spawn(spawn) = &mut observation.body {
            all.extend(terminals.spawned(spawn, observation.boottime_ns));
            all.extend(programs.spawned(spawn, observation.boottime_ns));
        }
        all.push(observation);
    }
    all
}

#[cfg(test)]
mod tests;
