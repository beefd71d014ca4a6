//! Bytes that may come from anybody, given to whoever reads them: none may panic, hang or fill the
//! memory. A [`Target`] is one reader. `corpora` runs each with the other tests, for as many mutations
//! of tests/fixtures/corpora as take a moment; `cargo xtask fuzz` runs them for long, led by coverage.
//! May touch: every reader, with bytes in memory.

#[cfg(test)]
mod corpora;
#[cfg(test)]
mod mutation;

use std::{io::BufRead, sync::LazyLock};

#[cfg(test)]
pub(crate) use mutation::{cases, mutated, mutations};

use crate::{
    daemon::replay::replay,
    evidence::{Reader, of_bytes},
    host, model,
    profile::{Profile, tokens_of},
    redact,
    report::{digest::Digest, html, markdown, text},
    sensor,
};

/// A reader of bytes that others wrote.
#[derive(
    Clone, Copy, Debug, Eq, PartialEq, strum::Display, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Target {
    /// A record of the kernel programs from the ring buffer.
    Record,
    /// Evidence, read, judged and reported on.
    Evidence,
    /// Evidence in a bundle: compressed, in an archive.
    Bundle,
    /// A profile.
    Profile,
    /// Files of a process in /proc: `stat`, `status`, `fdinfo`, `syscall`, `cgroup`, lists of children.
    Proc,
    /// Tables of sockets in /proc/PID/net.
    Net,
    /// What the kernel says of its types.
    Btf,
    /// The arguments of a process: matched, and shown.
    Argv,
    /// What a terminal's process says of its session.
    Session,
}

impl Target {
    /// Has it read these bytes.
    ///
    /// # Panics
    /// If there is a fault in the reader.
    pub fn run(self, bytes: &[u8]) {
        match self {
            Self::Record => sensor::ebpf::fuzz::record(bytes),
            Self::Evidence => judged(Reader::new(bytes)),
            Self::Bundle => bundle(bytes),
            Self::Profile => profile(bytes),
            Self::Proc => {
                host::proc::fuzz::files(bytes);
                sensor::fuzz::cgroup(bytes);
            }
            Self::Net => host::net::fuzz::tables(bytes),
            Self::Btf => sensor::ebpf::fuzz::btf(bytes),
            Self::Argv => argv(bytes),
            Self::Session => sensor::fuzz::session(bytes),
        }
    }
}

/// Reads, judges and digests it, as `replay` and `report` do.
fn judged(reader: Reader<impl BufRead>) {
    let mut digest = Digest::new();
    if replay(reader, vec![&mut digest]).is_ok() {
        let report = digest.report();
        let zone = jiff::tz::TimeZone::UTC;
        let mut page = Vec::new();
        let written = serde_json::to_vec(&report).is_ok()
            && text::render(&report, None, &zone, &mut page).is_ok()
            && html::render(&report, &mut page).is_ok();
        assert!(written, "what was read can be reported on");
        let pasted = markdown::render(&report, &zone);
        assert!(!pasted.contains(|c: char| c.is_control() && c != '\n'), "{pasted:?}");
    }
}

/// As it is, and, where it is not compressed, as what is inside the compression: a checksum would hide
/// most of it.
fn bundle(bytes: &[u8]) {
    use std::io::Write as _;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let packed = gz.write_all(bytes).and_then(|()| gz.finish());
        if let Ok(reader) = of_bytes(packed.unwrap_or_default()) {
            judged(reader);
        }
    }
    if let Ok(reader) = of_bytes(bytes.to_vec()) {
        judged(reader);
    }
}

fn profile(bytes: &[u8]) {
    match Profile::parse(&String::from_utf8_lossy(bytes)) {
        Ok(profile) => {
            let argv: [&[u8]; 4] = [b"python3", b"-m", b"tui_gateway.slash_worker", b"--x=1"];
            let _ = profile.match_worker(&argv);
            let _ = redact::worker_argv(&profile, &argv);
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error says what is wrong"),
    }
}

fn argv(area: &[u8]) {
    static PROFILE: LazyLock<Profile> = LazyLock::new(Profile::hermes);
    let profile = &*PROFILE;
    let tokens = tokens_of(area);
    let found = profile.match_worker(&tokens);
    let _ = (profile.match_helper(&tokens), profile.launcher(&tokens));
    let mut shown = redact::worker_argv(profile, &tokens);
    shown.extend(found.and_then(|found| found.key_in_argv()).map(|(key, _)| redact::value(key)));
    for token in &tokens {
        shown.extend([redact::escape(token), redact::argv0(token), redact::value(token)]);
    }
    let mut exec = model::Body::Exec(model::Exec {
        pid: 1,
        start_ns: 1,
        role: model::Role::Worker,
        comm: shown.concat(),
        argv0: shown.first().cloned(),
        is_worker: true,
        helper: None,
        source: model::Source::Kernel,
    });
    redact::Redaction::new(["alice".to_owned()]).apply(&mut exec);
    if let model::Body::Exec(exec) = exec {
        shown.push(exec.comm);
    }
    // What reaches a terminal must not steer it.
    assert!(!shown.iter().any(|text| text.contains(char::is_control)), "{shown:?}");
}
