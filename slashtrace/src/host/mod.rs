//! The ground floor: reads this machine and judges nothing. `proc` is /proc, `devpts` the instances
//! of that file system, `pidfd` a process held by its descriptor, `clock` the two clocks.
//! May touch: the kernel's files, to read them; `model`, `profile`, `redact`. Anybody may read it.

pub mod clock;
pub(crate) mod devpts;
pub(crate) mod pidfd;
pub mod proc;
