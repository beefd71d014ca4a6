//! Decides whether an argument area is a worker's. Two steps, because every exec of the machine
//! comes through here:
//!
//! 1. The word filter rules almost everything out: a rule's longest token with the NULs around it
//!    is at least 15 bytes, so an argument area that has it has, at any alignment, one aligned
//!    8-byte word that is wholly inside. Userspace puts those words into a Bloom filter of one
//!    cache line.
//! 2. What is left is split into tokens. Their hashes are looked up; each gives the set of places
//!    in the rules where it may stand, and a shift-and automaton follows all the rules at once.
//!    argv[0] never counts.

use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::{bpf_loop, bpf_probe_read_user},
};
use slashtrace_ebpf::{ARGV_MAX, Counter, FNV_OFFSET, fnv1a_step, word_bits};

use crate::{
    emit::count,
    maps::{ExecScratch, RULE_ENDS, RULE_STARTS, RULE_TOKENS, WORD_FILTER},
};

/// Copies the start of the argument area behind the record; false if it cannot be read.
#[inline(always)]
pub fn read_argv(scratch: &mut ExecScratch, arg_start: u64, argv_bytes: u64) -> bool {
    let mut length = argv_bytes;
    if length > ARGV_MAX as u64 {
        length = ARGV_MAX as u64;
    }
    scratch.record.argv_len = length as u32;
    let argv = scratch.tail.as_mut_ptr().cast();
    // SAFETY: `length` is at most the size of the buffer; the helper checks the source.
    unsafe { bpf_probe_read_user(argv, length as u32, arg_start as *const c_void) == 0 }
}

/// Bytes of argv behind the record. Read again from memory, where the verifier knows nothing of it:
/// else every exit of a loop below would be a state of its own, and the product of them too many.
#[inline(always)]
pub fn length(scratch: &ExecScratch) -> usize {
    // SAFETY: a valid reference.
    unsafe { core::ptr::read_volatile(&raw const scratch.record.argv_len) as usize }
}

const _: () = assert!(core::mem::offset_of!(ExecScratch, tail) % 8 == 0);

/// Whether the word filter lets this argument area through.
#[inline(always)]
pub fn may_match(scratch: &ExecScratch) -> bool {
    let words = length(scratch) / 8;
    #[expect(clippy::cast_ptr_alignment, reason = "argv is 8-byte aligned, see above")]
    let argv = scratch.tail.as_ptr().cast::<u64>();
    for i in 0..ARGV_MAX / 8 {
        if i >= words {
            break;
        }
        // SAFETY: `i` is below the number of words of the buffer, which is aligned for them. An
        // unaligned read would be eight reads: this target has none.
        let [first, second, third] = word_bits(unsafe { argv.add(i).read() });
        if has_bit(first) && has_bit(second) && has_bit(third) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn has_bit(bit: u32) -> bool {
    let index = (bit as usize >> 6) & (WORD_FILTER.len() - 1);
    // SAFETY: the index is masked to the filter's length. Volatile: replaced before the load.
    let word = unsafe { core::ptr::read_volatile(WORD_FILTER.as_ptr().add(index)) };
    word & (1 << (bit & 63)) != 0
}

/// State of the search through the tokens.
#[repr(C)]
struct Search {
    scratch: *const ExecScratch,
    length: u64,
    /// Hash of the token so far.
    hash: u64,
    /// Places in the rules that the tokens so far have reached.
    reached: u64,
    /// Places where a rule may start: none while in argv[0].
    may_start: u64,
    matched: u64,
}

/// Whether the tokens of this argument area match a rule.
#[inline(always)]
pub fn matches(scratch: &mut ExecScratch) -> bool {
    count(Counter::ArgvSearched);
    let nothing = unverified(scratch, 0);
    let mut search = Search {
        length: length(scratch) as u64,
        hash: unverified(scratch, FNV_OFFSET),
        reached: nothing,
        may_start: nothing,
        matched: nothing,
        scratch,
    };
    // A loop by helper (since 5.17): its body is verified once, where a plain loop over so many
    // bytes is verified byte by byte and exceeds what the verifier allows.
    // SAFETY: the callback has the signature that the helper calls, and takes a `Search`.
    unsafe {
        bpf_loop(ARGV_MAX as u32, search_byte as *mut c_void, (&raw mut search).cast(), 0);
    }
    search.matched != 0
}

/// A number that the verifier does not know, because it comes from a map's value.
///
/// Before Linux 6.7 the verifier looked at the callback of `bpf_loop` as if it were called once
/// (kernel/bpf/verifier.c; "verify callbacks as if they are called unknown number of times" is the
/// fix). What it knew to be zero in the first call it took for zero in all, and *removed* the code
/// for anything else: on 6.1 no worker ever matched.
#[inline(always)]
fn unverified(scratch: &mut ExecScratch, number: u64) -> u64 {
    // The field gets its own value later.
    let place = &raw mut scratch.record.argv_bytes;
    // SAFETY: a field of a valid reference. Volatile: the compiler must not see through it.
    unsafe {
        core::ptr::write_volatile(place, number);
        core::ptr::read_volatile(place)
    }
}

/// One byte of [`matches`]; returns 1 to stop.
unsafe extern "C" fn search_byte(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `matches` passes a `Search` that outlives the loop.
    let search = unsafe { &mut *search.cast::<Search>() };
    let index = index as usize;
    if index >= ARGV_MAX || index as u64 >= search.length {
        return 1;
    }
    // SAFETY: `scratch` is valid during the loop, and `index` below the size of its argv.
    let byte = unsafe { *(&raw const (*search.scratch).tail).cast::<u8>().add(index) };
    if byte != 0 {
        search.hash = fnv1a_step(search.hash, byte);
        return 0;
    }
    // SAFETY: the value is only read, and never changed after the load.
    let places = match unsafe { RULE_TOKENS.get(search.hash) } {
        Some(places) => *places,
        None => 0,
    };
    search.reached = ((search.reached << 1) | search.may_start) & places;
    if search.reached & RULE_ENDS.load() != 0 {
        search.matched = 1;
        return 1;
    }
    search.may_start = RULE_STARTS.load();
    search.hash = FNV_OFFSET;
    0
}
