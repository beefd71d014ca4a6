//! Where things are in the checkout, and how its toolchain is called.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// Root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's target folder: the one that this very program was built into.
pub(crate) fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| root().join("target"))
}

/// A file of the checkout, by its path from the root.
pub(crate) fn file(path: &str) -> PathBuf {
    root().join(path)
}

/// The channel that `rust-toolchain.toml` pins.
pub(crate) fn toolchain() -> Result<String> {
    let file = file("rust-toolchain.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{} has no line `channel = \"…\"`", file.display()))
}

/// The target of release builds: static, so that it runs on any distribution.
pub(crate) fn musl() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

/// Cargo in the checkout. Variables that `cargo run` set for this program are taken away, or cargo
/// would see another environment each time and build again.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
