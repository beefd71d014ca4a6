//! What the kernel programs cost to load: the verifier walks every path of them at each start.

use std::fs;

use slashtrace_tests::{Recording, host};

/// Instructions that the verifier may look at for one program. 44,000 were enough for exec, the
/// longest, on 6.18; the kernel's own limit is 1,000,000. A loop that is verified for each time it
/// runs is seen here first.
const VERIFIED_MAX: u64 = 100_000;

#[test]
fn no_program_is_dear_to_verify() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let folder = format!("/proc/{}/fdinfo", recording.pid());
    let verified: Vec<u64> = fs::read_dir(folder)
        .expect("slashtrace is running")
        .filter_map(|entry| fs::read_to_string(entry.expect("a descriptor").path()).ok())
        .filter_map(|info| {
            // `bpf_prog_show_fdinfo` (kernel/bpf/syscall.c), since 5.16.
            let number = info.lines().find_map(|line| line.strip_prefix("verified_insns:"))?;
            number.trim().parse().ok()
        })
        .collect();
    recording.stop();
    assert!(verified.len() >= 4, "{verified:?}");
    assert!(verified.iter().all(|&number| number <= VERIFIED_MAX), "{verified:?}");
}
