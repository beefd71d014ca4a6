//! The cases of `tests/cases`: real processes in shapes that public reports describe, each judged
//! by the real slashtrace in dry-run, several side by side.
//!
//! Runs alone: one of them starts thousands of processes, and others are judged by what they use.

use std::{fs, process::Command};

use slashtrace_tests::host;

/// How many cases run at once: they wait most of the time.
const AT_ONCE: &str = "4";

#[test]
fn every_case_is_judged_right() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let folder = host::checkout().join("tests/cases");
    let mut check = Command::new("python3");
    check.arg(folder.join("check.py")).args(["--jobs", AT_ONCE]);
    check.env("SLASHTRACE", host::slashtrace()).env("CASES_CACHE", host::target().join("cases"));
    if let Some(keep) = std::env::var_os("SLASHTRACE_KEEP_EVIDENCE") {
        check.arg("--keep").arg(keep);
    }
    let checked = check.output().expect("there is a python3");
    let lines = String::from_utf8_lossy(&checked.stdout);
    let told = String::from_utf8_lossy(&checked.stderr);
    print!("{lines}");

    let mut judged = Vec::new();
    let mut wrong = Vec::new();
    for line in lines.lines() {
        let mut words = line.splitn(2, ' ');
        let (verdict, rest) = (words.next().unwrap_or(""), words.next().unwrap_or("").trim_start());
        match verdict {
            "pass" => {}
            "skip" => host::skip(rest),
            "FAIL" => wrong.push(line),
            // The count at the end.
            _ => continue,
        }
        judged.extend(rest.split(' ').next());
    }
    assert!(wrong.is_empty(), "not judged right:\n{}\n{told}", wrong.join("\n"));
    let entries = fs::read_dir(&folder).expect("the cases are in the checkout").flatten();
    let cases = entries.filter(|entry| entry.path().join("case.py").exists());
    let mut cases: Vec<String> =
        cases.map(|case| case.file_name().to_string_lossy().into_owned()).collect();
    cases.sort_unstable();
    judged.sort_unstable();
    assert_eq!(judged, cases, "check.py ended with {}\n{told}", checked.status);
}
