use slashtrace_ebpf::{RULE_TOKENS_MAX, WORD_FILTER_WORDS, fnv1a, word_bits};

use crate::profile::Profile;

/// A profile's worker rule as the kernel's filter uses it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Hash of a token → places (bits) where it may stand.
    pub tokens: Vec<(u64, u64)>,
    /// Places where a rule starts.
    pub starts: u64,
    /// Places where a rule ends.
    pub ends: u64,
    /// Bloom filter over the words of which each worker's argv has one.
    pub word_filter: [u64; WORD_FILTER_WORDS],
    /// Length of the shortest argument area that can match, bytes.
    pub argv_min: u64,
}

impl Rule {
    /// Compiles the worker rule. The profile's own checks keep it within the kernel's bounds.
    pub fn new(profile: &Profile) -> Self {
        let tokens = &profile.worker.tokens;
        debug_assert!(tokens.len() <= RULE_TOKENS_MAX as usize);
        let mut places: Vec<(u64, u64)> = Vec::new();
        for (place, token) in tokens.iter().enumerate() {
            let hash = fnv1a(token.as_bytes());
            match places.iter_mut().find(|(known, _)| *known == hash) {
                Some((_, mask)) => *mask |= 1 << place,
                None => places.push((hash, 1 << place)),
            }
        }
        // argv[0] and its NUL at least, then the tokens with theirs.
        let joined = format!("\0{}\0", tokens.join("\0"));
        Self {
            tokens: places,
            starts: 1,
            ends: 1 << (tokens.len() - 1),
            word_filter: word_filter(joined.as_bytes()),
            argv_min: joined.len() as u64,
        }
    }
}

/// For each alignment, one 8-byte word that lies wholly inside `needle`; the one nearest its end,
/// where a module's name is rarer than `-m`. A needle too short for that lets everything through.
fn word_filter(needle: &[u8]) -> [u64; WORD_FILTER_WORDS] {
    if needle.len() < 15 {
        return [u64::MAX; WORD_FILTER_WORDS];
    }
    let mut filter = [0; WORD_FILTER_WORDS];
    for word in needle[needle.len() - 15..].windows(8) {
        let word = u64::from_ne_bytes(word.try_into().expect("windows of 8"));
        for bit in word_bits(word) {
            filter[bit as usize / 64] |= 1 << (bit % 64);
        }
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `may_match` of the kernel programs does.
    fn let_through(rule: &Rule, argv: &[u8]) -> bool {
        argv.chunks_exact(8).any(|word| {
            word_bits(u64::from_ne_bytes(word.try_into().unwrap()))
                .iter()
                .all(|bit| rule.word_filter[*bit as usize / 64] & (1 << (bit % 64)) != 0)
        })
    }

    #[test]
    fn no_alignment_hides_a_worker_from_the_word_filter() {
        let rule = Rule::new(&Profile::hermes());
        for padding in 0..64 {
            let mut argv = vec![b'p'; padding];
            argv.extend(b"\0-m\0tui_gateway.slash_worker\0");
            assert!(let_through(&rule, &argv), "{padding}");
        }
        assert!(!let_through(&rule, b"/usr/bin/gcc\0-O2\0-c\0main.c\0-o\0main.o\0"));
    }

    #[test]
    fn a_short_rule_lets_everything_through() {
        let mut profile = Profile::hermes();
        profile.worker.tokens = vec!["w".into()];
        let rule = Rule::new(&profile);
        assert!(let_through(&rule, b"whatever"));
        assert_eq!((rule.starts, rule.ends, rule.argv_min), (1, 1, 3));
    }

    #[test]
    fn a_token_that_repeats_has_two_places() {
        let mut profile = Profile::hermes();
        profile.worker.tokens = ["-x", "a", "-x", "b"].map(String::from).to_vec();
        let rule = Rule::new(&profile);
        assert_eq!(rule.tokens[0].1, 0b101);
        assert_eq!(rule.ends, 0b1000);
    }
}
