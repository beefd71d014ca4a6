//! What the kernel programs cost to load: the verifier walks every path of them at each start.

use std::fs;

use slashtrace_tests::{Recording, Setup, host};

/// Instructions that the verifier may look at for one program. For exec, the longest, 50,000 were
/// enough on 6.18 where rules name tokens, and 64,000 where they name programs, too; the kernel's own limit is 1,000,000. A loop that is verified for each time it
/// runs is seen here first.
const VERIFIED_MAX: u64 = 100_000;

#[test]
fn no_program_is_dear_to_verify() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let setup = Setup::ebpf();
    let token = setup.token().to_owned();
    let both = format!(
        "name = \"test\"\n[[worker]]\nprogram = \"{token}\"\nsession = \"none\"\n\
         [[worker]]\ntokens = [\"-m\", \"{token}\"]\nsession = \"none\"\n",
    );
    check(Recording::start());
    check(setup.profile(both).start());
}

fn check(recording: Recording) {
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
