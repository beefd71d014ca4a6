//! slashtrace: proves which code path leaks worker processes.
//!
//! The folders are the data flow: [`sensor`] → [`model::Observation`] → [`engine`] (pure) →
//! [`model::Finding`] → [`evidence`] and [`report`]; [`daemon`] joins them, [`cli`] starts them.

pub mod bundle;
pub mod cli;
pub mod daemon;
pub mod engine;
pub mod evidence;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod host;
pub mod model;
pub mod next_step;
pub mod profile;
pub mod reaper;
pub mod redact;
pub mod report;
pub mod roster;
pub mod sensor;
pub mod sink;
mod unhurried;
