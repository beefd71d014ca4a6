//! Each target on every file of its corpus, and on mutations of these: the same ones each time.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
};

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use strum::VariantArray as _;

use super::{Target, mutated, mutations};
use crate::{
    evidence::{line, samples},
    profile::BUILTIN_HERMES,
};

/// Corpora are for everybody who clones this: they stay small.
const BYTES_MAX: u64 = 1 << 20;

fn corpus(target: Target) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/corpora"));
    root.join(target.to_string())
}

/// What this version writes itself, whatever its formats are by now.
fn made(target: Target) -> Vec<Vec<u8>> {
    let evidence = || {
        let lines = samples::all().into_iter().map(|record| line(&record).unwrap() + "\n");
        lines.collect::<String>().into_bytes()
    };
    let (records, btf) = crate::sensor::ebpf::fuzz::made();
    match target {
        Target::Record => records,
        Target::Evidence => vec![evidence()],
        Target::Bundle => vec![gz(&evidence()), archive(&evidence()), gz(&archive(&evidence()))],
        Target::Profile => vec![BUILTIN_HERMES.as_bytes().to_vec()],
        Target::Btf => vec![btf],
        Target::Proc | Target::Net | Target::Argv | Target::Session => Vec::new(),
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn archive(evidence: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let packed = gz(evidence);
    for (name, bytes) in [("b/README.txt", &b"x"[..]), ("b/evidence.ndjson.gz", &packed)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What is there and what is made, in the same order each time.
fn inputs(target: Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
    let mut inputs: Vec<_> = paths.into_iter().map(named).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    let made = made(target).into_iter().enumerate();
    inputs.extend(made.map(|(n, bytes)| (format!("what is made, {n}"), bytes)));
    inputs
}

/// Says what a target was given before it goes on to fail.
fn run(target: Target, what: &str, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.run(bytes))) {
        eprintln!("{target}: {what}: b\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

/// `SLASHTRACE_FUZZ_SEED` draws other mutations, `SLASHTRACE_FUZZ_TIMES` more of them.
fn fuzzed(target: Target, cases: u64) {
    let asked = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = asked("SLASHTRACE_FUZZ_SEED").unwrap_or(1);
    let cases = cases * asked("SLASHTRACE_FUZZ_TIMES").unwrap_or(1);
    let inputs = inputs(target);
    for (name, bytes) in &inputs {
        run(target, name, bytes);
    }
    let mut bits = [0; 32];
    bits[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bits);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let choice = (proptest::sample::select(inputs), mutations());
    for case in 0..cases {
        let ((name, bytes), mutations) = choice.new_tree(&mut runner).unwrap().current();
        let what = format!("case {case} of seed {seed}, {mutations:?} of {name}");
        run(target, &what, &mutated(&bytes, &mutations));
    }
}

#[test]
fn record() {
    fuzzed(Target::Record, 10_000);
}

#[test]
fn evidence() {
    fuzzed(Target::Evidence, 150);
}

#[test]
fn bundle() {
    fuzzed(Target::Bundle, 200);
}

#[test]
fn profile() {
    fuzzed(Target::Profile, 500);
}

#[test]
fn proc() {
    fuzzed(Target::Proc, 5_000);
}

#[test]
fn net() {
    fuzzed(Target::Net, 2_000);
}

#[test]
fn btf() {
    fuzzed(Target::Btf, 5_000);
}

#[test]
fn argv() {
    fuzzed(Target::Argv, 2_000);
}

#[test]
fn session() {
    fuzzed(Target::Session, 5_000);
}

#[test]
fn corpora_are_small_and_there_is_one_for_each_target() {
    let bytes = |target: &Target| -> u64 {
        inputs(*target).iter().map(|(_, bytes)| bytes.len() as u64).sum()
    };
    let all: u64 = Target::VARIANTS.iter().map(bytes).sum();
    assert!(all < BYTES_MAX, "{all} bytes");
}

/// `UPDATE_CORPORA=1 cargo test -p slashtrace fuzz` writes what this version makes, for libFuzzer to
/// begin with.
#[test]
fn what_is_made_is_in_the_corpora() {
    if env::var_os("UPDATE_CORPORA").is_none() {
        return;
    }
    for target in Target::VARIANTS {
        for (n, bytes) in made(*target).into_iter().enumerate() {
            fs::write(corpus(*target).join(format!("made-{n}")), bytes).unwrap();
        }
    }
}
