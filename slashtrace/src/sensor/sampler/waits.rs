use crate::{host::proc::ProcFs, model::Identity};

/// Time between two looks at a worker that does not wait for its stdin; it doubles.
const FIRST_STEP_S: u8 = 4;
const SLOWEST_S: u8 = 60;
/// It may not be looked at: it is tried again then.
const DENIED_S: u8 = 60;
const SECOND_NS: u64 = 1_000_000_000;

/// Whether a worker was seen waiting for its stdin.
#[derive(Debug, Default)]
pub(super) struct Waits {
    seen: bool,
    step_s: u8,
    next_ns: u64,
}

impl Waits {
    /// Looks at a worker that does not run, if it is time. Whether it was seen waiting for the first
    /// time.
    pub(super) fn look(&mut self, proc: &ProcFs, identity: Identity, now_ns: u64) -> bool {
        if self.seen || now_ns < self.next_ns {
            return false;
        }
        let reads = proc.is_reading(identity.pid, 0);
        self.step_s = match reads {
            Ok(_) => (self.step_s * 2).clamp(FIRST_STEP_S, SLOWEST_S),
            Err(_) => DENIED_S,
        };
        self.next_ns = now_ns + u64::from(self.step_s) * SECOND_NS;
        self.seen = reads.unwrap_or(false);
        self.seen
    }
}
