use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{Done, checkout, fixture::Fixture};

/// Versions of hermes-agent that are tested against.
pub const VERSIONS: [&str; 2] = ["0.13.0", "0.19.0"];

/// A real hermes-agent in a venv, `target/hermes/<version>`.
#[derive(Clone, Debug)]
pub struct Hermes {
    folder: PathBuf,
}

impl Hermes {
    /// Makes the venv unless it is there; callers at the same time wait for one another. The error
    /// says why it cannot be had here.
    pub fn get(version: &str) -> Result<Self, String> {
        let folder = checkout::target().join("hermes").join(version);
        let output = Command::new("python3")
            .arg(checkout::fixture("hermes/install.py"))
            .arg(version)
            .arg(&folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("python3 cannot be started: {error}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            let last = why.trim().lines().last().unwrap_or("no reason given").to_owned();
            return Err(format!("hermes-agent {version}: {last}"));
        }
        Ok(Self { folder })
    }

    /// Plays one of the driver's scenarios to its end, and returns what was done.
    pub fn play(&self, scenario: &str) -> Vec<Done> {
        let mut command = Command::new(self.folder.join("bin/python"));
        command
            .arg(checkout::fixture("hermes/driver.py"))
            .args(["--scenario", scenario])
            .env_remove("PYTHONPATH");
        Fixture::start("the hermes driver", &mut command).finish(Duration::from_mins(2))
    }
}
