//! What a guest of `cargo xtask vm` says on its console: which tests passed on its kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, Result, bail, ensure};

/// How a test ended in a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It passed.
    Passed,
    /// It said that it cannot run there.
    Skipped,
    /// It failed.
    Failed,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Skipped => "skipped",
            Self::Failed => "FAILED",
        }
    }
}

/// What came of every test of one guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Results {
    /// Release of its kernel.
    pub(crate) release: String,
    /// By `program::test`.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// `test: why`, a line each.
    pub(crate) skips: Vec<String>,
}

impl Results {
    /// Reads what the guest said; each of `programs` must have run to its end.
    pub(crate) fn read(said: &str, programs: &[&str]) -> Result<Self> {
        let mut results = Self::default();
        let mut codes = BTreeMap::new();
        let mut program = None;
        let mut begun_test = None;
        let mut skipping = false;
        let mut whole = false;
        for line in said.lines() {
            if let Some(mark) = line.strip_prefix("@@ ") {
                (program, skipping, begun_test) = (None, false, None);
                match mark.split(' ').collect::<Vec<_>>()[..] {
                    ["kernel", release] => release.clone_into(&mut results.release),
                    ["begin", name] => program = Some(name),
                    ["end", name, code] => drop(codes.insert(name, code)),
                    ["skips"] => skipping = true,
                    ["off"] => whole = true,
                    _ => bail!("the guest said `{line}`"),
                }
            } else if skipping {
                results.skips.push(line.to_owned());
            } else if let Some(program) = program {
                // What a child of the test printed may stand between its name and the verdict.
                let mut word = line;
                if let Some((test, rest)) = begun(line) {
                    (begun_test, word) = (Some(test), rest);
                }
                if let (Some(test), Some(verdict)) = (begun_test, verdict(word)) {
                    results.verdicts.insert(format!("{program}::{test}"), verdict);
                    begun_test = None;
                }
            }
        }
        for &program in programs {
            let code = codes.get(program);
            let code = code.with_context(|| format!("{program} did not end in the guest"))?;
            let prefix = format!("{program}::");
            let mut of = results.verdicts.iter().filter(|(name, _)| name.starts_with(&prefix));
            ensure!(of.clone().next().is_some(), "{program} ran no test (exit code {code})");
            let failed = of.any(|(_, verdict)| *verdict == Verdict::Failed);
            ensure!(failed || *code == "0", "{program} ended with {code}, and no test failed");
        }
        ensure!(whole, "the guest did not get to its end");
        for skip in &results.skips {
            let Some((test, _)) = skip.split_once(": ") else { continue };
            let suffix = format!("::{test}");
            for (name, verdict) in &mut results.verdicts {
                if name.ends_with(&suffix) && *verdict == Verdict::Passed {
                    *verdict = Verdict::Skipped;
                }
            }
        }
        Ok(results)
    }

    /// Names of the tests that failed.
    pub(crate) fn failed(&self) -> Vec<&str> {
        let failed = self.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Failed);
        failed.map(|(name, _)| name.as_str()).collect()
    }
}

/// `test NAME ... VERDICT`, as libtest prints it.
fn begun(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

fn verdict(word: &str) -> Option<Verdict> {
    match word.trim() {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        word if word.starts_with("ignored") => Some(Verdict::Skipped),
        _ => None,
    }
}

/// Kernel × test.
pub(crate) fn matrix(guests: &[(&str, Results)]) -> String {
    let tests: BTreeSet<&String> =
        guests.iter().flat_map(|(_, results)| results.verdicts.keys()).collect();
    let width = tests.iter().map(|test| test.len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:width$}", "kernel")];
    for (name, _) in guests {
        let _ = write!(lines[0], "  {name:>7}");
    }
    for test in tests {
        let mut line = format!("{test:width$}");
        for (_, results) in guests {
            let word = results.verdicts.get(test).map_or("-", |verdict| verdict.word());
            let _ = write!(line, "  {word:>7}");
        }
        lines.push(line);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "noise\n@@ kernel 6.1.0\n@@ begin calls\nrunning 3 tests\n\
        test a ... ok\ntest b ... gateway: not found\nFAILED\ntest c ... ok\n\nstack\n@@ end calls 101\n\
        @@ skips\nc: no python3\n@@ off\n";

    #[test]
    fn each_test_has_its_verdict() {
        let results = Results::read(SAID, &["calls"]).expect("it is whole");
        assert_eq!((results.release.as_str(), results.failed()), ("6.1.0", vec!["calls::b"]));
        assert_eq!(results.verdicts["calls::c"], Verdict::Skipped);
        assert_eq!(results.skips, ["c: no python3"]);
        assert_eq!(
            matrix(&[("6.1", results), ("6.12", Results::default())]),
            "kernel        6.1     6.12\n\
             calls::a       ok        -\n\
             calls::b   FAILED        -\n\
             calls::c  skipped        -"
        );
    }

    #[test]
    fn a_guest_that_says_too_little_is_no_success() {
        for (said, programs) in [
            ("", &["calls"][..]),
            (SAID, &["calls", "storm"]),
            (&SAID.replace("@@ off", ""), &["calls"]),
            (&SAID.replace("FAILED\n", ""), &["calls"]),
            ("@@ begin calls\n@@ end calls 0\n@@ skips\n@@ off\n", &["calls"]),
        ] {
            assert!(Results::read(said, programs).is_err(), "{said}");
        }
    }
}
