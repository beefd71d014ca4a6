//! What `cargo xtask fuzz` runs: libFuzzer, and the target that `SLASHTRACE_FUZZ_TARGET` names.

#![no_main]

use std::{env, sync::LazyLock};

use slashtrace::fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("SLASHTRACE_FUZZ_TARGET").unwrap_or_default();
    name.parse().unwrap_or_else(|_| panic!("SLASHTRACE_FUZZ_TARGET names no target: `{name}`"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.run(bytes));
