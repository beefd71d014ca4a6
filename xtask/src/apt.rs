//! Programs from packages of Debian, installed as root where they are missing.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{run, step};

/// Installs the packages of programs, `(program, package)`, that are not there. Returns why that
/// cannot be done, and what to do, if it cannot.
pub(crate) fn provide(needed: &[(&str, &str)]) -> Result<Option<String>> {
    let absent = needed.iter().filter(|(program, _)| find(program).is_none());
    let packages: Vec<&str> = absent.map(|&(_, package)| package).collect();
    if packages.is_empty() {
        return Ok(None);
    }
    let by_hand = format!("missing: {0} (`apt-get install {0}`)", packages.join(" "));
    if !run::is_root()? || find("apt-get").is_none() {
        return Ok(Some(by_hand));
    }
    eprintln!("    installing {}", packages.join(" "));
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages);
    let installed = refresh_lists().and_then(|()| step::output(&mut install));
    Ok(installed.err().map(|error| format!("{by_hand}; {error:#}")))
}

/// A program in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Has apt read which packages there are.
pub(crate) fn refresh_lists() -> Result<()> {
    step::output(Command::new("apt-get").args(["update", "--quiet"])).map(drop)
}
