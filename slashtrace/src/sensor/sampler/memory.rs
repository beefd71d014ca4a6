use super::moved;
use crate::{host::proc::ProcFs, model::Memory};

const EVERY_NS: u64 = 10_000_000_000;
const PERCENT: u64 = 2;
const KIB: u64 = 64 * 1024;

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
        if let Some((said, _)) = &self.said
            && !moved(said.available_kib, memory.available_kib, PERCENT, KIB)
        {
            return None;
        }
        self.said = Some((memory, now_ns));
        self.next_ns = now_ns + EVERY_NS;
        Some(memory)
    }
}
