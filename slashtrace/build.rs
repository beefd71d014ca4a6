//! Builds the kernel programs into `OUT_DIR/probes`.

use std::{env, path::Path};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let tools = workspace.join(".tools/bin");
    let mut path = vec![tools.clone()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    // SAFETY: a build script has one thread at this point.
    unsafe {
        env::set_var("PATH", env::join_paths(path)?);
        env::set_var("RUSTC_BOOTSTRAP", "1");
    }
    let ebpf = workspace.join("slashtrace-ebpf");
    build_ebpf(
        [Package {
            name: "slashtrace-ebpf",
            root_dir: ebpf.to_str().context("the checkout's path is not UTF-8")?,
            ..Package::default()
        }],
        Toolchain::Custom("1.95.0"),
    )
    .context("the kernel programs were not built; run `cargo xtask setup`")
}
