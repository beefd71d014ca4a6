//! What the end-to-end tests share: they run the real `slashtrace` on real processes.
//!
//! `recording` starts slashtrace and, when it is stopped, checks what must hold for *every*
//! recording; `recorded` is what the tests then ask. `program` is an argv and what the process is
//! to do (`src/bin/subject.rs` does it). `host` finds binaries and says why a test is skipped.

/// Programs of `tests/fixtures`.
pub mod fixtures;
/// The real hermes-agent.
pub mod hermes;
/// What the real hermes-agent does, and what is true of it.
pub mod hermes_scenarios;
/// Binaries, privileges, skipped tests.
pub mod host;
/// Programs to run, and the orders for `subject`.
pub mod program;
/// What the tests of the reaper share.
pub mod reaping;
/// What was recorded, and questions about it.
pub mod recorded;
/// Runs slashtrace.
pub mod recording;

pub use program::{Program, Step, Subject};
pub use recorded::Recorded;
pub use recording::{Recording, Setup};
