//! The poll sensor set: /proc alone, read every interval, for people without root or BPF. `table`
//! remembers what was there and says what changed.
//! May touch: /proc through `proc` and `surroundings`, the clock.

mod capabilities;
mod table;

use std::{io, mem, time::Duration};

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{Description, Last, Next, Options, Sensor, surroundings::Surroundings};
use crate::host::{
    clock,
    proc::{ARGV_SEARCHED_BYTES, IdentityBook, ProcFs},
};
use crate::model::{Limits, Observation, SensorKind};
use table::Table;

/// Longest time between two readings of /proc.
const SLOWEST: Duration = Duration::from_secs(1);
/// Shortest: a reading takes some milliseconds.
const FASTEST: Duration = Duration::from_millis(20);

/// The poll sensor set.
#[derive(Debug)]
pub struct PollSensor {
    table: Table,
    surroundings: Surroundings,
    description: Description,
    interval: Duration,
    /// When /proc is read next.
    due: Instant,
    sample_interval_ns: u64,
    /// When workers are sampled next, ns of the boot clock.
    sample_due_ns: u64,
    /// Observed and not handed over yet.
    pending: Vec<Observation>,
}

impl PollSensor {
    /// Reads /proc for the first time: every worker that is there is `inherited`.
    ///
    /// # Errors
    /// If /proc cannot be listed.
    pub fn start(options: &Options) -> Result<Self> {
        Self::start_at(ProcFs::default(), options)
    }

    fn start_at(proc: ProcFs, options: &Options) -> Result<Self> {
        let interval = options.sample_interval.clamp(FASTEST, SLOWEST);
        let surroundings = Surroundings::start(&proc, &options.profile, &options.before);
        let mut capabilities = capabilities::of(&proc, interval, options.count_calls);
        capabilities.push(surroundings.clients_capability());
        capabilities.push(surroundings.terminal_capability());
        capabilities.push(Surroundings::use_capability());
        let description = Description {
            kind: SensorKind::Poll,
            capabilities,
            calls_counted: false,
            limits: Limits {
                argv_searched_bytes: ARGV_SEARCHED_BYTES as u32,
                ring_bytes: 0,
                tracked_max: IdentityBook::DEFAULT_MAX as u32,
                sample_interval_ms: options.sample_interval.as_millis() as u64,
            },
        };
        let root = proc.root().to_owned();
        let mut sensor = Self {
            table: Table::new(proc, options.profile.clone()),
            surroundings,
            description,
            interval,
            due: Instant::now() + interval,
            sample_interval_ns: options.sample_interval.as_nanos() as u64,
            sample_due_ns: 0,
            pending: Vec::new(),
        };
        sensor.read(clock::boottime_ns()).with_context(|| {
            format!("cannot read {0}; is it mounted? `mount -t proc proc {0}`", root.display())
        })?;
        Ok(sensor)
    }

    async fn wait(&mut self) -> Result<Vec<Observation>> {
        while self.pending.is_empty() {
            tokio::select! {
                () = self.surroundings.readable() => {
                    self.surroundings.read_terminals();
                    self.surroundings.apply_terminals(&mut self.pending);
                    continue;
                }
                () = tokio::time::sleep_until(self.due) => {}
            }
            self.round()?;
            // Late rounds (the machine slept) are not made up for.
            self.due = (self.due + self.interval).max(Instant::now());
        }
        Ok(mem::take(&mut self.pending))
    }

    fn round(&mut self) -> Result<()> {
        let now = clock::boottime_ns();
        self.read(now).context("cannot read /proc any more")?;
        self.surroundings.read_terminals();
        self.surroundings.apply_terminals(&mut self.pending);
        self.surroundings.refresh(now, &mut self.pending);
        // There is no kernel program to hand them to.
        drop(self.surroundings.terminal_changes());
        drop(self.surroundings.gateway_changes());
        Ok(())
    }

    /// Reads /proc once, and samples workers if it is time.
    fn read(&mut self, now_ns: u64) -> io::Result<()> {
        let mut batch = Vec::new();
        for observation in self.table.round(&mut self.surroundings.book, now_ns)? {
            self.surroundings.observe(observation, &mut batch);
        }
        self.surroundings.complete(batch, now_ns, &mut self.pending);
        self.surroundings.first_look(now_ns, &mut self.pending);
        if now_ns >= self.sample_due_ns {
            self.surroundings.sample(now_ns, &|_| None, &mut self.pending);
            self.sample_due_ns = now_ns + self.sample_interval_ns;
        }
        Ok(())
    }
}

impl Sensor for PollSensor {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    /// Waits until something changed. Cancel-safe: it only ever waits for the time to pass.
    fn next(&mut self) -> Next<'_> {
        Box::pin(self.wait())
    }

    /// Reads /proc a last time and stops.
    fn finish(mut self: Box<Self>) -> Result<Last> {
        self.round()?;
        Ok(Last {
            observations: self.pending,
            counters: self.table.counters(),
            // What lived and died between two readings is unknown, and said so at the start;
            // nothing that is *known* can have gone missing.
            complete: true,
        })
    }
}

#[cfg(test)]
mod tests;
