use super::bare;
use crate::{
    host::proc::ProcFs,
    model::{Identity, Sample},
};

/// Every child is a zombie for a moment: it is not looked at before that long after its exit.
const FIRST_LOOK_NS: u64 = 1_000_000_000;
/// Longest time between two looks at a zombie.
const SLOWEST_NS: u64 = 30_000_000_000;

/// A worker, or a process below one, that has ended, until its parent reaps it.
#[derive(Debug, Default)]
pub(super) struct Exited {
    next_ns: Option<u64>,
    step_ns: u64,
    /// It was seen, and said to be, a zombie.
    zombie: bool,
}

impl Exited {
    /// A sample if it turned out to be a zombie or was reaped after that, and whether it is to be
    /// looked at again.
    pub(super) fn round(
        &mut self,
        proc: &ProcFs,
        identity: Identity,
        now_ns: u64,
    ) -> (Option<Sample>, bool) {
        let Some(next_ns) = self.next_ns else {
            self.step_ns = FIRST_LOOK_NS;
            self.next_ns = Some(now_ns + FIRST_LOOK_NS);
            return (None, true);
        };
        if now_ns < next_ns {
            return (None, true);
        }
        self.step_ns = (self.step_ns * 2).min(SLOWEST_NS);
        self.next_ns = Some(now_ns + self.step_ns);
        if let Ok(None) = proc.cpu_ns(identity.pid) {
            return (self.zombie.then(|| bare(identity, 'X')), false);
        }
        match proc.stat(identity.pid) {
            Ok(Some(stat)) if proc.is_same(identity, &stat) && stat.state == 'Z' => {
                let sample = (!self.zombie).then(|| bare(identity, 'Z'));
                self.zombie = true;
                (sample, true)
            }
            // It said that it ended and is still there: on its way out (state `X`, or held by
            // a core dump), or unreadable.
            Ok(Some(stat)) if proc.is_same(identity, &stat) => (None, true),
            Err(_) => (None, true),
            Ok(_) => (self.zombie.then(|| bare(identity, 'X')), false),
        }
    }
}
