//! `cargo xtask bench`: how fast it is, as ratios within one run. Tests never ask for the time.

use std::convert::Infallible;

use anyhow::Result;

use crate::{build, checkout, run, setup};

/// Builds the release and measures how long after its terminal closed a worker gets SIGTERM.
pub(crate) fn bench() -> Result<Infallible> {
    setup::for_building()?;
    let program = build::build(build::Args { release: true })?;
    let mut command = run::as_root("python3".as_ref())?;
    command.arg(checkout::file("tests/benches/close_to_term/bench.py")).arg(program);
    eprintln!("==> from the close of a terminal to SIGTERM, against inotify and kill in C");
    run::become_command(&mut command)
}
