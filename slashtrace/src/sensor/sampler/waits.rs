use crate::{host::proc::ProcFs, model::Identity};

/// Time between two looks at a worker that does not wait for its stdin; it doubles.
const FIRST_STEP_NS: u64 = 4_000_000_000;
const SLOWEST_NS: u64 = 60_000_000_000;
/// It may not be looked at: it is tried again then.
const DENIED_NS: u64 = 60_000_000_000;

/// Whether a worker was seen waiting for its stdin.
#[derive(Debug, Default)]
pub(super) struct Waits {
    seen: bool,
    next_ns: u64,
    step_ns: u64,
}

impl Waits {
    /// Looks at a worker that does not run, if it is time. Whether it was seen waiting for the first
    /// time.
    pub(super) fn look(&mut self, proc: &ProcFs, identity: Identity, now_ns: u64) -> bool {
        if self.seen || now_ns < self.next_ns {
            return false;
        }
        let reads = proc.is_reading(identity.pid, 0);
        self.step_ns = match reads {
            Ok(_) => (self.step_ns * 2).clamp(FIRST_STEP_NS, SLOWEST_NS),
            Err(_) => DENIED_NS,
        };
        self.next_ns = now_ns + self.step_ns;
        self.seen = reads.unwrap_or(false);
        self.seen
    }
}
