//! `cargo xtask build`: slashtrace for this machine (debug) or for any (release, static).

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{checkout, setup, step};

/// What to build.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Optimised and statically linked (musl): one file that runs on any distribution.
    #[arg(long)]
    pub(crate) release: bool,
}

/// Sets up what a build needs, builds, and returns the program.
pub(crate) fn set_up_and_build(args: Args) -> Result<PathBuf> {
    setup::for_building()?;
    build(args)
}

/// Builds, and returns the program.
pub(crate) fn build(args: Args) -> Result<PathBuf> {
    let musl = checkout::musl();
    let (name, arguments, folder) = if args.release {
        (
            "build (release, static)",
            vec!["build", "--package", "slashtrace", "--release", "--target", &musl],
            format!("{musl}/release"),
        )
    } else {
        ("build (debug)", vec!["build", "--package", "slashtrace"], "debug".to_owned())
    };
    eprintln!("==> {name}");
    step::must(name, || {
        step::call(checkout::cargo(&arguments).arg("--target-dir").arg(checkout::target()))
    })?;
    let program = checkout::target().join(folder).join("slashtrace");
    ensure!(program.is_file(), "the build left no {}", program.display());
    eprintln!("    {}", program.display());
    Ok(program)
}
