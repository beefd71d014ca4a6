//! What is read of the daemon every few seconds, without asking it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::bench::process;

/// The daemon at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Seconds since the load began.
    pub(crate) at: f64,
    /// Resident set, and the part of it that no file backs, KiB.
    pub(crate) rss_kib: f64,
    pub(crate) anonymous_kib: f64,
    pub(crate) descriptors: f64,
    pub(crate) threads: f64,
    /// CPU time so far, ms.
    pub(crate) cpu_ms: f64,
    /// Bytes of evidence so far.
    pub(crate) evidence: f64,
    /// Workers that the load has spawned so far, and rounds that it has finished.
    pub(crate) lives: f64,
    pub(crate) cycles: f64,
    /// Entries of its hash maps in the kernel.
    pub(crate) maps: BTreeMap<String, Fill>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fill {
    pub(crate) entries: u64,
    pub(crate) most: u64,
    /// A cache (LRU), which is meant to fill up.
    pub(crate) is_cache: bool,
}

impl Sample {
    /// As it is written to soak.json.
    pub(crate) fn json(&self) -> Value {
        let maps: BTreeMap<&str, u64> =
            self.maps.iter().map(|(name, fill)| (name.as_str(), fill.entries)).collect();
        json!({
            "at_s": self.at,
            "rss_kib": self.rss_kib,
            "anonymous_kib": self.anonymous_kib,
            "descriptors": self.descriptors,
            "threads": self.threads,
            "cpu_ms": self.cpu_ms,
            "evidence_bytes": self.evidence,
            "lives": self.lives,
            "cycles": self.cycles,
            "maps": maps,
        })
    }
}

/// Reads a process, and the maps that it holds.
pub(crate) struct Sampler {
    pid: u32,
    evidence: PathBuf,
    maps: Maps,
}

impl Sampler {
    /// `counter` is the program of tests/benches/soak/maps.c.
    pub(crate) fn new(pid: u32, evidence: PathBuf, counter: &Path) -> Result<Self> {
        Ok(Self { pid, evidence, maps: Maps::start(counter)? })
    }

    /// What it is like now, `at` seconds; what the load did is not known here.
    pub(crate) fn sample(&mut self, at: f64) -> Result<Sample> {
        let (rss, anonymous) = resident(self.pid)?;
        Ok(Sample {
            at,
            rss_kib: rss as f64,
            anonymous_kib: anonymous as f64,
            descriptors: descriptors(self.pid)? as f64,
            threads: process::status(self.pid, "Threads")? as f64,
            cpu_ms: {
                let (user, system) = process::times_ns(self.pid)?;
                (user + system) as f64 / 1e6
            },
            evidence: bytes(&self.evidence) as f64,
            maps: self.maps.fill(&process::maps(self.pid))?,
            ..Sample::default()
        })
    }
}

/// Resident set and its anonymous part, KiB, page by page: the sums in /proc/PID/status are kept per
/// CPU and may be off by some dozen pages (Documentation/filesystems/proc.rst).
fn resident(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} is gone, or its memory may not be read"))?;
    let field = |name| process::field(&text, name).with_context(|| format!("no {name}"));
    Ok((field("Rss")?, field("Anonymous")?))
}

fn descriptors(pid: u32) -> Result<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    Ok(open.with_context(|| format!("process {pid} is gone"))?.count())
}

/// Bytes of a file, or of all files in a folder; 0 if it is not there.
pub(crate) fn bytes(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .filter(fs::Metadata::is_file)
            .map(|file| file.len())
            .sum(),
        Err(_) => fs::metadata(path).map_or(0, |file| file.len()),
    }
}

/// tests/benches/soak/maps.c.
struct Maps {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Maps {
    fn start(counter: &Path) -> Result<Self> {
        let mut command = Command::new(counter);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, input, output })
    }

    fn fill(&mut self, ids: &BTreeSet<u32>) -> Result<BTreeMap<String, Fill>> {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let input = self.input.as_mut().context("closed")?;
        writeln!(input, "{}", ids.join(" ")).context("maps cannot be read")?;
        let mut fills = BTreeMap::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "maps cannot be read");
            if line == ".\n" {
                return Ok(fills);
            }
            let (name, fill) = parse(&line).with_context(|| format!("not understood: {line}"))?;
            fills.insert(name, fill);
        }
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        // The end of its stdin is its end.
        self.input.take();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<(String, Fill)> {
    let mut words = line.split_whitespace();
    let (name, sort) = (words.next()?.to_owned(), words.next()?);
    let (entries, most) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((name, Fill { entries, most, is_cache: sort == "lru" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_with_what_it_is() {
        let fill = Fill { entries: 12, most: 16_384, is_cache: false };
        assert_eq!(parse("TRACKED hash 12 16384\n"), Some(("TRACKED".to_owned(), fill)));
        assert!(parse("RATES lru 3 64\n").is_some_and(|(_, fill)| fill.is_cache));
        assert_eq!(parse("TRACKED hash x 16384\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let (rss, anonymous) = resident(pid).expect("Linux");
        assert!(rss >= anonymous && anonymous > 0);
        assert!(descriptors(pid).expect("Linux") >= 3);
        assert!(process::status(pid, "Threads").expect("Linux") >= 1);
    }

    #[test]
    fn evidence_is_a_file_or_a_folder_of_them() {
        let folder = std::env::temp_dir().join(format!("slashtrace-soak-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).expect("a folder");
        fs::write(folder.join("1"), "12345").expect("a file");
        fs::write(folder.join("2"), "123").expect("a file");
        assert_eq!((bytes(&folder.join("1")), bytes(&folder)), (5, 8));
        assert_eq!(bytes(&folder.join("3")), 0);
        fs::remove_dir_all(folder).expect("it was there");
    }
}
