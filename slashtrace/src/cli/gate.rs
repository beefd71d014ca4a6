use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;

use crate::{
    bundle,
    report::{digest::Report, github, junit, markdown},
    unhurried,
};

/// What a CI run is told.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Gate {
    /// Write JUnit XML to this file, a test case a session; one that is there is replaced. On
    /// GitHub Actions annotations and a step summary are written by themselves
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Gate {
    /// Tells whoever is to be told.
    pub(super) fn tell(&self, report: &Report, zone: &TimeZone) -> Result<()> {
        if let Some(path) = &self.junit {
            bundle::replace(path, junit::render(report).as_bytes())?;
        }
        if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
            // The runner looks for commands in both streams; stdout is the command's.
            let _ = unhurried::stderr().write_all(github::annotations(report).as_bytes());
            if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") {
                summary(Path::new(&path), &markdown::render(report, zone))?;
            }
        }
        Ok(())
    }
}

/// Appends to the step's summary: others have written to it.
fn summary(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| {
        format!("cannot write the step summary {} (GITHUB_STEP_SUMMARY)", path.display())
    })
}
