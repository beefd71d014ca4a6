//! s
use crate::profile::Profile;
use std::io::Write;
/// s
pub fn run(_: &Profile, _: bool, _: &mut dyn Write, _: bool) -> anyhow::Result<()> {
    Ok(())
}
