use std::collections::BTreeMap;

use slashtrace_ebpf::{
    PROGRAM_PLACE, RULE_TOKENS_MAX, TAIL_BYTES, WORD_FILTER_WORDS, fnv1a, word_bits,
};

use crate::profile::Profile;

/// A Bloom filter of the kernel programs.
type Filter = [u64; WORD_FILTER_WORDS];

/// A profile's worker rules as the kernel's filter uses them. It lets through whatever one of them
/// matches, and more: exclusions, and which file an interpreter runs, are left to userspace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Hash of a token, or of a program's name → places (bits) where it may stand.
    pub tokens: Vec<(u64, u64)>,
    /// Places where a rule starts.
    pub starts: u64,
    /// Places where a rule ends.
    pub ends: u64,
    /// Over the words of which each argv that has a rule's tokens has one.
    pub word_filter: Filter,
    /// Over the ends of the tokens that are, or end in, a program's name.
    pub tail_filter: Filter,
    /// Whether there are rules that name tokens.
    pub by_tokens: bool,
    /// Whether there are rules that name a program alone.
    pub by_program: bool,
    /// Length of the shortest argument area that can match, bytes.
    pub argv_min: u64,
}

impl Rule {
    /// Compiles the worker rules. The profile's own checks keep them within the kernel's bounds.
    pub fn new(profile: &Profile) -> Self {
        let mut rule = Self {
            tokens: Vec::new(),
            starts: 0,
            ends: 0,
            word_filter: [0; WORD_FILTER_WORDS],
            tail_filter: [0; WORD_FILTER_WORDS],
            by_tokens: false,
            by_program: false,
            argv_min: u64::MAX,
        };
        let mut places = BTreeMap::new();
        let mut next = 0;
        for worker in &profile.workers {
            // The tokens are rarer than a program's name.
            match &worker.program {
                Some(program) if worker.tokens.is_empty() => rule.add_program(program, &mut places),
                _ => {
                    for spelling in worker.spellings() {
                        rule.add_tokens(&spelling, next, &mut places);
                        next += spelling.len();
                    }
                }
            }
        }
        debug_assert!(next < 63 && places.len() <= RULE_TOKENS_MAX as usize);
        rule.tokens = places.into_iter().collect();
        rule
    }

    fn add_tokens(&mut self, tokens: &[String], first: usize, places: &mut BTreeMap<u64, u64>) {
        for (at, token) in tokens.iter().enumerate() {
            *places.entry(fnv1a(token.as_bytes())).or_default() |= 1 << (first + at);
        }
        // argv[0] and its NUL at least, then the tokens with theirs.
        let joined = format!("\0{}\0", tokens.join("\0"));
        self.starts |= 1 << first;
        self.ends |= 1 << (first + tokens.len() - 1);
        add_words(&mut self.word_filter, joined.as_bytes());
        self.by_tokens = true;
        self.argv_min = self.argv_min.min(joined.len() as u64);
    }

    /// A program is a token, the end of one behind a `/`, or glued to `-m`.
    fn add_program(&mut self, program: &str, places: &mut BTreeMap<u64, u64>) {
        for token in [program.to_owned(), format!("-m{program}")] {
            *places.entry(fnv1a(token.as_bytes())).or_default() |= PROGRAM_PLACE;
        }
        // What is in front of it: nothing, a path, or `-m`.
        for before in ["\0", "/", "m"] {
            let text = format!("{before}{program}");
            match text.as_bytes().last_chunk::<TAIL_BYTES>() {
                Some(tail) => add(&mut self.tail_filter, u64::from(u32::from_ne_bytes(*tail))),
                None => self.tail_filter = [u64::MAX; WORD_FILTER_WORDS],
            }
        }
        self.by_program = true;
        self.argv_min = self.argv_min.min(program.len() as u64 + 1);
    }
}

/// For each alignment, one 8-byte word that lies wholly inside `needle`; the one nearest its end,
/// where a module's name is rarer than `-m`. A needle too short for that lets everything through.
fn add_words(filter: &mut Filter, needle: &[u8]) {
    if needle.len() < 15 {
        *filter = [u64::MAX; WORD_FILTER_WORDS];
        return;
    }
    for word in needle[needle.len() - 15..].windows(8) {
        add(filter, u64::from_ne_bytes(word.try_into().expect("windows of 8")));
    }
}

fn add(filter: &mut Filter, word: u64) {
    for bit in word_bits(word) {
        filter[bit as usize / 64] |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(filter: &Filter, word: u64) -> bool {
        word_bits(word).iter().all(|bit| filter[*bit as usize / 64] & (1 << (bit % 64)) != 0)
    }

    /// What `may_match` of the kernel programs does.
    fn let_through(rule: &Rule, argv: &[u8]) -> bool {
        let words = argv
            .chunks_exact(8)
            .any(|word| has(&rule.word_filter, u64::from_ne_bytes(word.try_into().unwrap())));
        let mut before = [0; TAIL_BYTES];
        let tails = argv.iter().any(|&byte| {
            let end = byte == 0 && has(&rule.tail_filter, u64::from(u32::from_ne_bytes(before)));
            before.rotate_left(1);
            before[TAIL_BYTES - 1] = byte;
            end
        });
        (rule.by_tokens && words) || (rule.by_program && tails)
    }

    /// What `matches` of the kernel programs does.
    fn searched(rule: &Rule, argv: &[u8]) -> bool {
        let places = |token: &[u8]| {
            let hash = fnv1a(token);
            rule.tokens.iter().find(|(known, _)| *known == hash).map_or(0, |(_, places)| *places)
        };
        let (mut reached, mut may_start) = (0_u64, 0);
        argv.strip_suffix(b"\0").unwrap().split(|&byte| byte == 0).any(|token| {
            let own = places(token);
            reached = ((reached << 1) | may_start) & own;
            may_start = rule.starts;
            let name = token.rsplit(|&byte| byte == b'/').next().unwrap();
            let program = if rule.by_program { own | places(name) } else { 0 };
            reached & rule.ends != 0 || program & PROGRAM_PLACE != 0
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
        profile.workers[0].tokens = vec!["w".into()];
        let rule = Rule::new(&profile);
        assert!(let_through(&rule, b"whatever"));
        assert_eq!((rule.starts, rule.ends, rule.argv_min), (1, 1, 3));
    }

    #[test]
    fn a_token_that_repeats_has_two_places() {
        let mut profile = Profile::hermes();
        profile.workers[0].tokens = ["-x", "a", "-x", "b"].map(String::from).to_vec();
        let rule = Rule::new(&profile);
        assert!(rule.tokens.contains(&(fnv1a(b"-x"), 0b101)));
        assert_eq!(rule.ends, 0b1000);
    }

    const RULES: [&str; 6] = [
        "[worker]\ntokens = [\"-m\", \"agent.main\"]\nsession = \"none\"\n",
        "[worker]\ntokens = [\"x\", \"-m\", \"x\", \"-m\", \"uv\"]\nsession = \"none\"\n",
        "[worker]\nprogram = \"npx\"\nexclude = [\"x\"]\nsession = \"none\"\n",
        "[worker]\nprogram = \"uv\"\nsession = \"none\"\n",
        "[[worker]]\nprogram = \"agent.main\"\ntokens = [\"serve\"]\nsession = \"none\"\n\
         [[worker]]\ntokens = [\"serve\", \"x\"]\nsession = \"none\"\n",
        "[[worker]]\nprogram = \"gopls\"\nsession = \"none\"\n\
         [[worker]]\ntokens = [\"-m\", \"agent.main\"]\nsession = \"none\"\n\
         [[worker]]\nprogram = \"agent.main\"\nsession = \"none\"\n",
    ];

    const WORDS: [&str; 22] = [
        "",
        "-m",
        "x",
        "agent.main",
        "-magent.main",
        "-mx",
        "-muv",
        "uv",
        "npx",
        "-mnpx",
        "gopls",
        "/usr/bin/npx",
        "/opt/gopls",
        "./agent.main",
        "python3",
        "node",
        "/bin/sh",
        "serve",
        "--",
        "-u",
        "a-much-longer-token/with/agent.main/in",
        "/",
    ];

    proptest! {
        /// What a rule matches, the kernel lets through; and where tokens decide alone, no more.
        #[test]
        fn the_kernel_misses_nothing(
            rules in 0..RULES.len(),
            argv in prop::collection::vec(prop::sample::select(&WORDS[..]), 1..9),
        ) {
            let profile = Profile::parse(&format!("name = \"p\"\n{}", RULES[rules])).unwrap();
            let rule = Rule::new(&profile);
            let area = argv.join("\0") + "\0";
            let area = area.as_bytes();
            let tokens = crate::profile::tokens_of(area);
            let matched = profile.match_worker(&tokens).is_some();
            let kernel = area.len() as u64 >= rule.argv_min
                && let_through(&rule, area)
                && searched(&rule, area);
            prop_assert!(kernel || !matched, "missed {argv:?}");
            // What only launches a worker is told apart in userspace.
            let plain = profile.workers.iter().all(|worker| worker.program.is_none());
            if plain && !profile.is_launcher(&tokens) {
                prop_assert_eq!(kernel, matched, "{:?}", argv);
            }
        }
    }
}
