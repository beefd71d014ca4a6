//! The ground floor: reads this machine and judges nothing. `proc` is /proc, `devpts` the instances
//! of that file system, `diag` asks the kernel for sockets, `net` is what sockets a network namespace
//! or a process has, `unix` the other ends of Unix sockets, `pidfd` a process held by its
//! descriptor, `clock` the two clocks.
//! May touch: the kernel's files, to read them; `model`, `profile`, `redact`. Anybody may read it.

pub mod clock;
pub(crate) mod devpts;
pub(crate) mod diag;
pub(crate) mod net;
pub(crate) mod pidfd;
pub mod proc;
pub(crate) mod unix;
