use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Pod,
    maps::{Array, IterableMap as _, MapData},
};
use slashtrace_ebpf::{MARK_SLOTS, SHARE_SLOTS, Shares as Value, mark_slot, share_slot};

/// The kernel programs' table of marks (`MARKS`), mapped: a count of the tracked processes by the
/// low bits of their pids. The programs look nobody up whose mark is 0, so whoever adds an entry
/// counts it first.
pub struct Marks {
    slots: NonNull<[AtomicU32; MARK_SLOTS]>,
}

// SAFETY: shared memory that is only accessed through atomics; the mapping belongs to this value.
unsafe impl Send for Marks {}

/// Maps the value of an array of one.
fn map_value<T: Pod, S>(array: &Array<MapData, T>) -> io::Result<NonNull<S>> {
    const { assert!(size_of::<T>() == size_of::<S>()) };
    // SAFETY: a new mapping at an address that the kernel chooses. It stays when the descriptor is
    // closed (mmap(2)).
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<S>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            array.map().fd().as_fd().as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

impl Marks {
    /// Maps the table.
    pub fn map(marks: &Array<MapData, [u32; MARK_SLOTS]>) -> io::Result<Self> {
        Ok(Self { slots: map_value(marks)? })
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

/// A map value that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct SharesValue(Value);

// SAFETY: `Shares` is `repr(C)`, of integers, and without padding.
unsafe impl Pod for SharesValue {}

/// The kernel programs' table of shares (`SHARES`), mapped: how many entries of each table are
/// tracked on which user's account.
pub struct Shares {
    slots: NonNull<[[AtomicU32; SHARE_SLOTS]; 2]>,
    spread: u32,
}

// SAFETY: shared memory that is only accessed through atomics; the mapping belongs to this value.
unsafe impl Send for Shares {}

impl Shares {
    /// Maps the table; `spread` is what the programs were given.
    pub fn map(shares: &Array<MapData, SharesValue>, spread: u32) -> io::Result<Self> {
        Ok(Self { slots: map_value(shares)?, spread })
    }

    /// How many entries a user has. Where it was counted wrongly it may be less than none.
    pub fn of(&self, uid: u32, of_descendants: bool) -> i32 {
        self.slot(uid, of_descendants).load(Ordering::Relaxed).cast_signed()
    }

    /// Counts an entry that is about to be added.
    pub fn add(&self, uid: u32, of_descendants: bool) {
        self.slot(uid, of_descendants).fetch_add(1, Ordering::SeqCst);
    }

    /// Counts an entry back that was removed, or not added after all.
    pub fn remove(&self, uid: u32, of_descendants: bool) {
        self.slot(uid, of_descendants).fetch_sub(1, Ordering::SeqCst);
    }

    /// Every number of one table.
    pub fn all(&self, of_descendants: bool) -> Vec<u32> {
        let slots = &self.slots()[usize::from(of_descendants)];
        slots.iter().map(|slot| slot.load(Ordering::SeqCst)).collect()
    }

    /// Sets right what was counted wrongly, where nobody has counted since `before` was read.
    /// `owners` are those of all entries.
    pub fn correct(
        &self,
        of_descendants: bool,
        before: &[u32],
        owners: impl IntoIterator<Item = u32>,
    ) {
        let mut counted = vec![0_u32; SHARE_SLOTS];
        for uid in owners {
            counted[share_slot(uid, self.spread)] += 1;
        }
        let slots = &self.slots()[usize::from(of_descendants)];
        for ((slot, &before), counted) in slots.iter().zip(before).zip(counted) {
            if before != counted {
                // It fails where an entry came or went meanwhile: the next time, then.
                let _ = slot.compare_exchange(before, counted, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
    }

    fn slot(&self, uid: u32, of_descendants: bool) -> &AtomicU32 {
        &self.slots()[usize::from(of_descendants)][share_slot(uid, self.spread)]
    }

    fn slots(&self) -> &[[AtomicU32; SHARE_SLOTS]; 2] {
        // SAFETY: mapped with this size until `self` is dropped, and aligned to a page.
        unsafe { self.slots.as_ref() }
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        // SAFETY: what `map` mapped, and nothing borrows it any more. A failure leaves it mapped.
        unsafe { libc::munmap(self.slots.as_ptr().cast(), size_of::<Value>()) };
    }
}
