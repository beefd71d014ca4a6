//! The eBPF sensor set: kernel programs that see workers born, signalled and gone; the /proc
//! snapshot at the start; samples of what is tracked.
//!
//! Rooms: `btf.rs` finds kernel fields, `object.rs` loads and attaches the programs, `rule.rs`
//! turns a profile into the kernel's filter, `wire.rs` decodes records, `translate.rs` makes
//! observations of them, `loss.rs` reconciles counters.

mod btf;
mod object;
mod rule;
mod wire;

use anyhow::{Result, bail};

use super::{Description, Last, Options};
use crate::model::Observation;

/// The eBPF sensor set.
#[derive(Debug)]
pub struct EbpfSensor {
    /// programs
    pub object: object::Object,
}

impl EbpfSensor {
    /// Starts it.
    pub fn start(options: &Options) -> Result<Self> {
        let rule = rule::Rule::new(&options.profile);
        Ok(Self { object: object::Object::load(&rule, options.count_calls, options.kernel_log)? })
    }

    /// What it can do here.
    pub fn describe(&self) -> Description {
        unreachable!("cannot be started")
    }

    /// Waits for the next observations.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        loop {
            for n in self.object.verified() { println!("{n}"); }
            while let Some(r) = self.object.next_record() {
                println!("{:?}", wire::decode(r));
            }
            println!("{:?} missed {}", self.object.counters()?, self.object.missed_runs());
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    /// Stops it.
    pub fn finish(self) -> Result<Last> {
        bail!("not built yet")
    }
}
