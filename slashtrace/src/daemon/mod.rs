//! The pipeline: sensor → record → engine → sinks. `pipeline` gives observations their place and
//! judges them, `session` drives it with a sensor until it is told to stop, `choose` picks the
//! sensor.
//! May touch: everything; it is the only place where the parts meet.

/// Picks the sensor set.
pub mod choose;
/// Gives observations their place and judges them.
pub mod pipeline;
/// Drives the pipeline with a sensor until it is told to stop.
pub mod session;

pub use crate::sink::Sink;
