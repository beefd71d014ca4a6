//! `cargo xtask run -- ARGS`: slashtrace as root.

use std::{
    convert::Infallible, env, ffi::OsString, fs, os::unix::fs::MetadataExt as _,
    os::unix::process::CommandExt as _, path::Path, process::Command,
};

use anyhow::{Context as _, Result};

use crate::build;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    build: build::Args,
    /// Arguments of slashtrace.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Builds slashtrace and becomes it, so that its exit code and the terminal's signals are its own.
pub(crate) fn run(args: &Args) -> Result<Infallible> {
    let program = build::set_up_and_build(args.build)?;
    let mut command = as_root(&program)?;
    command.args(&args.arguments);
    become_command(&mut command)
}

/// A command that runs as root: through sudo unless this already is.
pub(crate) fn as_root(program: &Path) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("sudo");
    if env::var_os("NO_COLOR").is_some() {
        command.arg("--preserve-env=NO_COLOR");
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// Replaces this program; returns only if that failed.
pub(crate) fn become_command(command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    let program = command.get_program().to_owned();
    Err(error).with_context(|| {
        if program == "sudo" {
            "slashtrace must run as root, and sudo is not here: become root and try again"
                .to_owned()
        } else {
            format!("cannot start {}", program.display())
        }
    })
}

/// Whether this runs as root: /proc/self belongs to the effective user.
pub(crate) fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0)
}
