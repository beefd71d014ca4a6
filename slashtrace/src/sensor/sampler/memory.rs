use super::moved;
use crate::{host::proc::ProcFs, model::Memory};

/// It is read that often.
const EVERY_NS: u64 = 10_000_000_000;
/// What is written at once.
const PERCENT: u64 = 10;
const KIB: u64 = 512 * 1024;
/// What is written once a minute.
const MINOR_NS: u64 = 60_000_000_000;
const MINOR_PERCENT: u64 = 3;

/// What was last said of the machine's memory.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    said: Option<(Memory, u64)>,
    next_ns: u64,
}

impl MemoryWatch {
    /// The machine's memory, if `MemAvailable` moved since it was last said.
    pub(super) fn round(&mut self, proc: &ProcFs, now_ns: u64) -> Option<Memory> {
        if now_ns < self.next_ns {
            return None;
        }
        let memory = proc.meminfo().ok()?;
        self.next_ns = now_ns + EVERY_NS;
        if let Some((said, at_ns)) = &self.said {
            let (before, now) = (said.available_kib, memory.available_kib);
            let old = now_ns.saturating_sub(*at_ns) >= MINOR_NS;
            let news = moved(before, now, PERCENT, KIB)
                || (old && moved(before, now, MINOR_PERCENT, u64::MAX));
            if !news {
                return None;
            }
        }
        self.said = Some((memory, now_ns));
        Some(memory)
    }
}
