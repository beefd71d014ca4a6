//! The pure state machine: records in, findings out. No clock, no /proc, no async, no locks, so a
//! recording judged again gives the very same findings.
//! May touch: `model` and `profile`.

use crate::{
    model::{Finding, Record},
    profile::Profile,
};

/// Judges a recording, record by record.
#[derive(Debug)]
pub struct Engine {
    profile: Profile,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(profile: Profile) -> Self {
        Self { profile }
    }

    /// Takes one record and returns the findings that it opened, updated or closed, in order.
    /// Records that are not observations (findings, actions) change nothing.
    pub fn observe(&mut self, record: &Record) -> Vec<Finding> {
        let _ = (&self.profile, record);
        Vec::new()
    }

    /// The earliest moment (ns of the boot clock) at which the mere passing of time may change a
    /// finding. Whoever drives the engine gives it a `tick` record then, and need not before.
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }
}
