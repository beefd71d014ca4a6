//! The real hermes-agent from PyPI, in venvs below `target/hermes`.

use std::{path::PathBuf, process::Command};

use crate::host;

/// A venv with this version below `target/hermes`; nothing, said aloud, where it is not to be had.
///
/// # Panics
/// If there is no Python.
pub fn venv(version: &str) -> Option<PathBuf> {
    let folder = host::target().join("hermes").join(version);
    let made = Command::new("python3")
        .arg(host::fixture("hermes/install.py"))
        .arg(version)
        .arg(&folder)
        .output()
        .expect("there is a python3");
    if made.status.success() {
        return Some(folder);
    }
    let told = String::from_utf8_lossy(&made.stderr);
    let last = told.trim_end().lines().last().unwrap_or("no reason given");
    host::skip(&format!("hermes-agent {version} is not to be had: {last}"));
    None
}
