//! One file a hook. Each is called for everything on the machine, so each first finds out, as
//! cheaply as it can, that it has nothing to do.

pub mod exec;
pub mod exit;
pub mod fork;
pub mod read;
pub mod signal;
pub mod terminal;
