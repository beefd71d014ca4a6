//! The Ebpf sensor set.

use anyhow::{Result, bail};

use super::{Description, Last, Options};
use crate::model::Observation;

/// The Ebpf sensor set.
#[derive(Debug)]
pub struct EbpfSensor {}

impl EbpfSensor {
    /// Starts it.
    pub fn start(_options: &Options) -> Result<Self> {
        bail!("not built yet")
    }

    /// What it can do here.
    pub fn describe(&self) -> Description {
        unreachable!("cannot be started")
    }

    /// Waits for the next observations.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        bail!("not built yet")
    }

    /// Stops it.
    pub fn finish(self) -> Result<Last> {
        bail!("not built yet")
    }
}
