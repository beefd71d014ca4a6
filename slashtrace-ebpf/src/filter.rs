//! Decides whether an argument area is a worker's. Two steps, because every exec of the machine
//! comes through here:
//!
//! 1. The word filter rules almost everything out: a rule's longest token with the NULs around it
//!    is at least 15 bytes, so an argument area that has it has, at any alignment, one aligned
//!    8-byte word that is wholly inside. Userspace puts those words into a Bloom filter of one
//!    cache line.
//!    A program's name may be shorter, and what is in front of it is not known: where a rule names
//!    one, the last four bytes of each token are looked up in a filter of their own.
//! 2. What is left is split into tokens. Their hashes are looked up; each gives the set of places
//!    in the rules where it may stand, and a shift-and automaton follows all the rules at once;
//!    there argv[0] never counts. Where a rule names a program, the hash of what is behind the last
//!    `/` of a token is looked up, too, and is a match wherever it stands: which file an interpreter
//!    runs, userspace finds out.

use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::generated::{bpf_loop, bpf_probe_read_user},
};
use slashtrace_ebpf::{
    ARGV_FILTERED_MAX, ARGV_MAX, Counter, FNV_OFFSET, PROGRAM_PLACE, RULE_BYTES_MAX, TAIL_BYTES,
    WORD_FILTER_WORDS, fnv1a_step, word_bits,
};

use crate::{
    emit::count,
    maps::{
        ARGV_PIECE, BY_PROGRAM, BY_TOKENS, ExecScratch, RULE_ENDS, RULE_STARTS, RULE_TOKENS,
        TAIL_FILTER, WORD_FILTER,
    },
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

/// Words of argv that the filters look at in one go.
type Words = [u64; ARGV_MAX / 8];

/// The argv behind the record, as words. The copy that the verifier sees has no other bounds.
#[inline(always)]
fn words_of(scratch: &ExecScratch) -> *const Words {
    scratch.tail.as_ptr().cast()
}

/// Whether the filters let the argument area behind the record through. What userspace has set is
/// known to the verifier, which removes what is not in use.
#[inline(always)]
pub fn may_match(scratch: &mut ExecScratch) -> bool {
    if BY_PROGRAM.load() == 0 {
        return may_have_tokens(words_of(scratch), length(scratch) / 8);
    }
    let nothing = unverified(scratch, 0);
    may_have_either(words_of(scratch), length(scratch) as u64, nothing, nothing).0
}

/// Whether the word filter lets so many words through.
#[inline(always)]
fn may_have_tokens(argv: *const Words, words: usize) -> bool {
    for i in 0..ARGV_MAX / 8 {
        if i >= words {
            break;
        }
        // SAFETY: `i` is below the number of words of the buffer, which is aligned for them. An
        // unaligned read would be eight reads: this target has none.
        if has_bits(&WORD_FILTER, unsafe { argv.cast::<u64>().add(i).read() }) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn has_bits(filter: &[u64; WORD_FILTER_WORDS], word: u64) -> bool {
    let [first, second, third] = word_bits(word);
    has_bit(filter, first) && has_bit(filter, second) && has_bit(filter, third)
}

#[inline(always)]
fn has_bit(filter: &[u64; WORD_FILTER_WORDS], bit: u32) -> bool {
    let index = (bit as usize >> 6) & (WORD_FILTER_WORDS - 1);
    // SAFETY: the index is masked to the filter's length. Volatile: replaced before the load.
    let word = unsafe { core::ptr::read_volatile(filter.as_ptr().add(index)) };
    word & (1 << (bit & 63)) != 0
}

/// State of [`may_have_either`].
#[repr(C)]
struct Look {
    argv: *const Words,
    words: u64,
    /// The word before.
    previous: u64,
    found: u64,
}

/// Whether one of the filters lets an argument area of so many bytes through; and its last word, for
/// what follows it. `nothing` is a zero that the verifier does not know.
#[inline(always)]
fn may_have_either(argv: *const Words, length: u64, previous: u64, nothing: u64) -> (bool, u64) {
    // What is in the last word behind the end is of an earlier exec: it lets through too much at
    // most.
    let mut look = Look { words: length.div_ceil(8), previous, found: nothing, argv };
    // SAFETY: the callback has the signature that the helper calls, and takes a `Look`.
    unsafe {
        bpf_loop((ARGV_MAX / 8) as u32, look_at_word as *mut c_void, (&raw mut look).cast(), 0);
    }
    (look.found != 0, look.previous)
}

/// One word of [`may_have_either`]; returns 1 to stop.
unsafe extern "C" fn look_at_word(index: u32, look: *mut c_void) -> c_long {
    // SAFETY: `may_have_either` passes a `Look` that outlives the loop.
    let look = unsafe { &mut *look.cast::<Look>() };
    let index = index as usize;
    if index >= ARGV_MAX / 8 || index as u64 >= look.words {
        return 1;
    }
    // SAFETY: `argv` is valid during the loop, and `index` below the number of its words.
    let word = unsafe { look.argv.cast::<u64>().add(index).read() };
    let previous = look.previous;
    look.previous = word;
    let found = (BY_TOKENS.load() != 0 && has_bits(&WORD_FILTER, word))
        || (BY_PROGRAM.load() != 0 && ends_like_a_program(previous, word));
    look.found = u64::from(found);
    c_long::from(found)
}

/// Whether a token ends in `word` that the tail filter lets through.
#[inline(always)]
fn ends_like_a_program(previous: u64, word: u64) -> bool {
    // Whether there is a zero byte at all ("Determine if a word has a zero byte", Bit Twiddling
    // Hacks): in most words there is none.
    if word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080 == 0 {
        return false;
    }
    const { assert!(TAIL_BYTES == 4 && cfg!(target_endian = "little")) };
    let mut at = 0;
    while at < 8 {
        let bits = 8 * at;
        if word & (0xff << bits) == 0 {
            let before = if at < 4 {
                previous >> (32 + bits) | word << (32 - bits)
            } else {
                word >> (bits - 32)
            };
            if has_bits(&TAIL_FILTER, before & 0xffff_ffff) {
                return true;
            }
        }
        at += 1;
    }
    false
}

/// State of the way through what follows in a long argument area.
#[repr(C)]
struct Rest {
    piece: *mut Words,
    /// Where the next piece begins.
    from: u64,
    end: u64,
    /// The word before.
    previous: u64,
    nothing: u64,
    may_match: u64,
}

/// Where the rest of a long argument area begins: a rule's tokens may lie across the end of what is
/// searched. Words do not lie across pieces, because these begin at multiples of 8.
const REST_FROM: usize = ARGV_MAX - RULE_BYTES_MAX - 8;
const _: () = assert!(REST_FROM.is_multiple_of(8));

/// Whether a rule may match beyond the searched part of a long argument area: `false` is certain.
#[inline(always)]
pub fn may_match_behind(scratch: &mut ExecScratch, arg_start: u64, argv_bytes: u64) -> bool {
    if argv_bytes > ARGV_FILTERED_MAX {
        return true;
    }
    let Some(piece) = ARGV_PIECE.get_ptr_mut(0) else { return true };
    let nothing = unverified(scratch, 0);
    // SAFETY: a word of the searched part.
    let previous = unsafe { words_of(scratch).cast::<u64>().add(REST_FROM / 8 - 1).read() };
    let mut rest = Rest {
        piece,
        from: arg_start + REST_FROM as u64,
        end: arg_start + argv_bytes,
        previous,
        nothing,
        may_match: nothing,
    };
    const PIECES: u32 = (ARGV_FILTERED_MAX / ARGV_MAX as u64) as u32;
    // SAFETY: the callback has the signature that the helper calls, and takes a `Rest`.
    unsafe { bpf_loop(PIECES, look_at_piece as *mut c_void, (&raw mut rest).cast(), 0) };
    rest.may_match != 0
}

/// One piece of [`may_match_behind`]; returns 1 to stop.
unsafe extern "C" fn look_at_piece(_: u32, rest: *mut c_void) -> c_long {
    // SAFETY: `may_match_behind` passes a `Rest` that outlives the loop.
    let rest = unsafe { &mut *rest.cast::<Rest>() };
    let left = rest.end.wrapping_sub(rest.from);
    if left == 0 || left > ARGV_FILTERED_MAX {
        return 1;
    }
    let length = if left > ARGV_MAX as u64 { ARGV_MAX as u64 } else { left };
    let from = rest.from as *const c_void;
    // SAFETY: `length` is at most the size of the buffer; the helper checks the source.
    if unsafe { bpf_probe_read_user(rest.piece.cast(), length as u32, from) } != 0 {
        // Userspace can have it read from where it was swapped to.
        rest.may_match = 1;
        return 1;
    }
    rest.from += length;
    let (found, previous) = may_have_either(rest.piece, length, rest.previous, rest.nothing);
    rest.previous = previous;
    rest.may_match = u64::from(found);
    c_long::from(found)
}

/// State of the search through the tokens.
#[repr(C)]
struct Search {
    scratch: *const ExecScratch,
    length: u64,
    /// Hash of the token so far.
    hash: u64,
    /// Hash of what is behind the last `/` in it; only where a rule names a program.
    name: u64,
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
        name: unverified(scratch, FNV_OFFSET),
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
        if BY_PROGRAM.load() != 0 {
            search.name = if byte == b'/' { FNV_OFFSET } else { fnv1a_step(search.name, byte) };
        }
        return 0;
    }
    let places = places_of(search.hash);
    search.reached = ((search.reached << 1) | search.may_start) & places;
    let mut ends = search.reached & RULE_ENDS.load();
    if BY_PROGRAM.load() != 0 {
        ends |= (places | places_of(search.name)) & PROGRAM_PLACE;
        search.name = FNV_OFFSET;
    }
    if ends != 0 {
        search.matched = 1;
        return 1;
    }
    search.may_start = RULE_STARTS.load();
    search.hash = FNV_OFFSET;
    0
}

/// The places in the rules of a token, or of the last part of one.
#[inline(always)]
fn places_of(hash: u64) -> u64 {
    // SAFETY: the value is only read, and never changed after the load.
    unsafe { RULE_TOKENS.get(hash) }.map_or(0, |places| *places)
}
