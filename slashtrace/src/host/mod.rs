//! The ground floor: reads this machine and judges nothing. `proc` is /proc, `devpts` the instances
//! of that file system, `clock` the two clocks.
//! May touch: the kernel's files, to read them; `model`, `profile`, `redact`. Anybody may read it.

pub mod clock;
pub(crate) mod devpts;
pub mod proc;
