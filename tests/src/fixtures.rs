//! Programs of `tests/fixtures` that say, as JSON lines, what they do.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
    thread,
};

use serde::Deserialize;

/// One thing that a fixture did.
#[derive(Clone, Debug, Deserialize)]
pub struct Did {
    /// When, ns of the boot clock.
    pub boottime_ns: u64,
    /// In which scenario.
    pub scenario: String,
    /// What: `begin`, `spawn`, `expect`, `left`, `end`, …
    pub did: String,
    /// The gateway that did it.
    pub gateway: Option<u32>,
    /// The process that it was done to.
    pub pid: Option<u32>,
    /// The processes that are expected or left.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// The kind of finding that is expected; none where none is.
    pub kind: Option<String>,
    /// Whether a call was answered.
    pub answered: Option<bool>,
    /// Workers of the first tab, or tabs.
    #[serde(default)]
    pub first: Vec<u32>,
    /// Workers of the second tab.
    #[serde(default)]
    pub second: Vec<u32>,
    /// The session.
    pub session: Option<String>,
    /// The terminal.
    pub index: Option<u32>,
}

/// Runs a fixture to its end; returns what it said it did.
///
/// # Panics
/// If it fails.
pub fn play(command: &mut Command) -> Vec<Did> {
    play_with(command, |_| ())
}

/// The same; `first` gets the first thing that it did, and it goes on (a line on its stdin) when
/// that returns.
///
/// # Panics
/// If it fails.
pub fn play_with(command: &mut Command, first: impl FnOnce(&Did)) -> Vec<Did> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the fixture runs");
    let mut stderr = child.stderr.take().expect("a pipe");
    let told = thread::spawn(move || {
        let mut text = String::new();
        drop(stderr.read_to_string(&mut text));
        text
    });
    let mut stdin = child.stdin.take();
    let mut first = Some(first);
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let did: Vec<Did> = lines
        .map(|line| {
            let line = line.expect("the fixture writes lines");
            let did: Did =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if let Some(first) = first.take() {
                first(&did);
                // One that does not read it may have ended.
                drop(stdin.take().map(|mut stdin| stdin.write_all(b"\n")));
            }
            did
        })
        .collect();
    let status = child.wait().expect("a child can be waited for");
    let told = told.join().expect("stderr was read");
    assert!(status.success(), "the fixture ended with {status}\n{told}");
    did
}
