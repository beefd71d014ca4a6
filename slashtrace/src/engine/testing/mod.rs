//! The engine's test bench: `scenario` tells histories as a person would, `driver` drives the engine
//! as the daemon does, `world` and `oracle` make up worlds, `histories` and `properties` are what is
//! tried on them; `joins` is about
//! which worker is on which terminal, `callers` about which client asked for it. Compiled for tests alone.
//! May touch: everything pure.

mod callers;
mod confidence;
mod driver;
mod histories;
mod joins;
mod oracle;
mod properties;
pub(crate) mod scenario;
mod uses;
mod world;

pub(crate) use properties::recordings;
