//! Byte mutations of inputs that may come from anybody: none may panic, hang or fill the memory. Runs
//! with the other tests, for as many cases as `PROPTEST_CASES` says (64 by default).

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    daemon::replay::replay,
    evidence::{Reader, line, samples},
    profile::Profile,
    report::digest::Digest,
};

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

fn evidence() -> Vec<u8> {
    let lines = samples::all().into_iter().map(|record| line(&record).expect("a record") + "\n");
    lines.collect::<String>().into_bytes()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).expect("memory");
    gz.finish().expect("memory")
}

fn bundle() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("b/README.txt", b"x".to_vec()), ("b/evidence.ndjson.gz", gz(&evidence()))]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &*bytes).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// Reads, judges and digests it, as `replay` and `report` do.
fn judged(reader: Reader<impl std::io::BufRead>) {
    let mut digest = Digest::new();
    if replay(reader, vec![&mut digest]).is_ok() {
        let report = digest.report();
        let _ = serde_json::to_vec(&report);
        let _ = crate::report::markdown::render(&report, &jiff::tz::TimeZone::UTC);
    }
}

pub(crate) fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(asked.unwrap_or(64)) }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn evidence_of_any_bytes_is_read_or_refused(mutations in mutations()) {
        let bytes = mutated(&evidence(), &mutations);
        judged(Reader::new(&bytes[..]));
    }

    #[test]
    fn a_bundle_of_any_bytes_is_read_or_refused(
        outer in prop::bool::ANY,
        mutations in mutations(),
    ) {
        // Inside the compression, where a checksum would hide most of it, or outside.
        let bytes = if outer { mutated(&gz(&bundle()), &mutations) } else { gz(&mutated(&bundle(), &mutations)) };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("b.tar.gz");
        std::fs::write(&path, bytes).expect("room");
        if let Ok(reader) = Reader::open(&path) {
            judged(reader);
        }
    }

    #[test]
    fn a_profile_of_any_bytes_is_parsed_or_refused(mutations in mutations()) {
        let text = include_str!("profile/hermes.toml");
        let bytes = mutated(text.as_bytes(), &mutations);
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Profile::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
