use proptest::{collection::vec, prelude::*, sample::Index};

/// What is done to an input.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, u8),
    Double(Index, u8),
    Insert(Index, Vec<u8>),
    /// A number gets another one, as text.
    Number(Index, u64),
}

pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<Index>;
    let odd = prop::sample::select(vec![0, 1, u64::from(u32::MAX), i64::MAX as u64, u64::MAX]);
    let one = prop_oneof![
        4 => (at(), 1_u8..).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        1 => at().prop_map(Mutation::Cut),
        2 => (at(), any::<u8>()).prop_map(|(at, bytes)| Mutation::Remove(at, bytes)),
        2 => (at(), any::<u8>()).prop_map(|(at, bytes)| Mutation::Double(at, bytes)),
        1 => (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        4 => (at(), odd).prop_map(|(at, number)| Mutation::Number(at, number)),
    ];
    vec(one, 1..8)
}

pub(crate) fn mutated(input: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match mutation {
            Mutation::Flip(at, bits) => bytes[at.index(len)] ^= bits,
            Mutation::Cut(at) => bytes.truncate(at.index(len)),
            Mutation::Remove(at, many) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + usize::from(*many)));
            }
            Mutation::Double(at, many) => {
                let at = at.index(len);
                let part = bytes[at..len.min(at + usize::from(*many))].to_vec();
                bytes.splice(at..at, part);
            }
            Mutation::Insert(at, more) => {
                let at = at.index(len);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Number(at, number) => {
                let from = at.index(len);
                let digit = |byte: &u8| byte.is_ascii_digit();
                let Some(first) = bytes[from..].iter().position(digit) else { continue };
                let first = from + first;
                let digits = bytes[first..].iter().take_while(|byte| digit(byte)).count();
                bytes.splice(first..first + digits, number.to_string().into_bytes());
            }
        }
    }
    bytes
}

/// As many cases as `PROPTEST_CASES` says, 64 without it.
pub(crate) fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(asked.unwrap_or(64)) }
}
