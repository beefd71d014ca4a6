//! The pipeline: sensor → record → engine → sinks. `pipeline` gives observations their place and
//! judges them, `session` drives it with a sensor until it is told to stop, `replay` with what was
//! recorded; `choose` picks the sensor, `command` runs what is traced, `tally` counts, `quota`
//! bounds what each user has written.
//! May touch: everything; it is the only place where the parts meet.

/// Picks the sensor set.
pub mod choose;
mod command;
/// That a signal ends the process in time.
pub mod ending;
/// Gives observations their place and judges them.
pub mod pipeline;
/// How much evidence each user's processes may make.
pub mod quota;
/// Drives the pipeline with what was recorded.
pub mod replay;
/// Goes on where an earlier recording ended.
pub mod resume;
/// Drives the pipeline with a sensor until it is told to stop.
pub mod session;
mod signals;
mod start;
/// What a recording comes to, in a few numbers.
pub mod tally;

pub use crate::sink::Sink;
