use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::{Array, IterableMap as _, MapData};
use slashtrace_ebpf::{MARK_SLOTS, mark_slot};

/// The kernel programs' table of marks (`MARKS`), mapped: a count of the tracked processes by the
/// low bits of their pids. The programs look nobody up whose mark is 0, so whoever adds an entry
/// counts it first.
pub struct Marks {
    slots: NonNull<[AtomicU32; MARK_SLOTS]>,
}

// SAFETY: shared memory that is only accessed through atomics; the mapping belongs to this value.
unsafe impl Send for Marks {}

impl Marks {
    /// Maps the table.
    pub fn map(marks: &Array<MapData, [u32; MARK_SLOTS]>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses. It stays when the
        // descriptor is closed (mmap(2)).
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<[u32; MARK_SLOTS]>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                marks.map().fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slots = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { slots })
    }

    /// Counts an entry that is about to be added.
    pub fn add(&self, pid: u32) {
        self.slots()[mark_slot(pid)].fetch_add(1, Ordering::SeqCst);
    }

    /// Counts an entry back that was removed, or not added after all.
    pub fn remove(&self, pid: u32) {
        self.slots()[mark_slot(pid)].fetch_sub(1, Ordering::SeqCst);
    }

    /// How many processes are tracked.
    pub fn total(&self) -> u64 {
        self.slots().iter().map(|slot| u64::from(slot.load(Ordering::Relaxed))).sum()
    }

    fn slots(&self) -> &[AtomicU32; MARK_SLOTS] {
        // SAFETY: mapped with this size until `self` is dropped, and aligned to a page.
        unsafe { self.slots.as_ref() }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: what `map` mapped, and nothing borrows it any more. A failure leaves it mapped.
        unsafe { libc::munmap(self.slots.as_ptr().cast(), size_of::<[u32; MARK_SLOTS]>()) };
    }
}
