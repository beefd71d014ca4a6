//! The real hermes-agent from PyPI, in venvs below `target/hermes`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

/// The folder with the packages of a venv.
///
/// # Panics
/// If it has none.
pub fn packages(venv: &Path) -> PathBuf {
    let versions = fs::read_dir(venv.join("lib")).expect("a venv has lib").flatten();
    let mut folders = versions.map(|version| version.path().join("site-packages"));
    folders.find(|folder| folder.is_dir()).expect("a venv has packages")
}
