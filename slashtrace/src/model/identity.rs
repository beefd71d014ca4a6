use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who a process is: its pid *and* when it started. A bare pid is never an identity, because
/// pids are reused.
///
/// Two identities are equal only if both parts are. Sensors make sure that one process has one
/// identity within a recording, although /proc rounds start times to clock ticks and the kernel
/// programs do not.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Identity {
    /// Thread group id in the initial pid namespace (`task_struct.tgid`).
    pub pid: u32,
    /// Start of the thread group leader in nanoseconds of `CLOCK_BOOTTIME`
    /// (`task_struct.start_boottime`; from /proc/PID/stat field 22 it is a whole clock tick).
    pub start_ns: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)
    }
}
