//! One file a hook. Each is called for everything on the machine, so each first finds out, as
//! cheaply as it can, that it has nothing to do.

pub mod exec;
pub mod exit;
pub mod flat;
pub mod fork;
pub mod read;
pub mod send;
pub mod signal;
pub mod terminal;
