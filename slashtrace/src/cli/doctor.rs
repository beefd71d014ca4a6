//! s
use crate::profile::Profile;
use std::io::Write;
/// s
pub fn run(
    p: &Profile,
    _: bool,
    out: &mut dyn Write,
    _: bool,
) -> anyhow::Result<std::process::ExitCode> {
    writeln!(out, "{:#?}", crate::sensor::ebpf::probe(p))?;
    Ok(std::process::ExitCode::SUCCESS)
}
