//! The words of the product as types: identities, observations, findings, and the record that
//! carries them in evidence. Everything here is plain data: serialisable, comparable, pure.
//! May touch: nothing that does I/O, no clock, no async.

mod action;
mod finding;
mod identity;
mod observation;
mod program;
mod record;
mod signal;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;

pub use action::{Action, Mode, Outcome, Phase, Step};
pub use finding::{Confidence, Finding, FindingState, FindingWorker, Forecast, GatewayRef, Kind};
pub use identity::Identity;
pub use observation::{
    Capability, Exec, Exit, Gap, GapReason, Host, Limits, Memory, Parent, ParentSource, Process,
    Reaping, Role, Sample, Sender, SensorKind, Signal, Source, Spawn, Start, StdinPeer, StdinState,
    Stop, Terminal, Tick,
};
pub use program::{Install, Program};
pub use record::{Body, FORMAT_VERSION, Observation, Record};
pub use signal::signal_name;
pub use terminal::{Clients, Connection, TerminalEvent, TerminalState};
