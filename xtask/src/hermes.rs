//! The real hermes-agent, in a venv under `target/hermes/<version>`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{checkout, step};

/// Versions that the demo and the tests know.
pub(crate) const VERSIONS: [&str; 2] = ["0.13.0", "0.19.0"];
/// Versions between these that every test run downloads, too.
pub(crate) const BETWEEN: [&str; 1] = ["0.15.2"];

/// Makes the venv unless it is there, and returns its Python.
pub(crate) fn venv(version: &str) -> Result<PathBuf> {
    let folder = checkout::target().join("hermes").join(version);
    let python = folder.join("bin/python");
    eprintln!("==> hermes-agent {version}");
    step::must(&format!("venv {}", folder.display()), || {
        // Shared with the tests, which make the same venv and may run at the same time.
        step::call(&mut install(version)).context("pip downloads it from PyPI: is there a network?")
    })?;
    fs::metadata(&python).with_context(|| format!("{} is missing", python.display()))?;
    Ok(python)
}

/// What makes the venv; it does nothing where that is there.
pub(crate) fn install(version: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(checkout::file("tests/fixtures/hermes/install.py")).arg(version);
    command.arg(checkout::target().join("hermes").join(version));
    command
}
