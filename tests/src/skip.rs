use std::{env, fs, io::Write as _, path::Path, thread};

use rustix::process::geteuid;

/// Ends the running test, and says aloud that it was skipped and why.
///
/// ```no_run
/// fn a_test() {
///     if let Err(why) = slashtrace_tests::root_and_bpf() {
///         slashtrace_tests::skip!("{why}");
///     }
/// }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skipped(&::std::format!($($reason)*));
        return;
    }};
}

/// Writes `SKIPPED: test: why` to stderr and a line to the file that `SLASHTRACE_SKIP_LOG` names,
/// whose lines `cargo xtask test` repeats in its summary.
pub fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let file = env::current_exe().ok();
    let file = file.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let file = file.rsplit_once('-').map_or(&*file, |(name, _hash)| name);
    // Not `eprintln!`, which the test harness captures of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {file}::{test}: {why}");
    if let Some(log) = env::var_os("SLASHTRACE_SKIP_LOG") {
        let mut log =
            fs::OpenOptions::new().append(true).create(true).open(log).expect("the log of skips");
        writeln!(log, "{file}::{test}: {why}").expect("the log of skips");
    }
}

/// Whether the kernel programs can be loaded here; the error says why not.
pub fn root_and_bpf() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("not root: kernel programs cannot be loaded".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("this kernel has no BTF (/sys/kernel/btf/vmlinux)".to_owned());
    }
    bpf_map().map_err(|error| format!("bpf(2) is refused even to root: {error}"))
}

/// Makes the smallest map there is, and closes it.
fn bpf_map() -> std::io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The first members of `union bpf_attr` for BPF_MAP_CREATE (include/uapi/linux/bpf.h):
    // map_type, key_size, value_size, max_entries, map_flags.
    let attributes = [BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0];
    // SAFETY: the kernel reads `size_of_val(&attributes)` bytes at the pointer and takes every
    // later member of the union as zero.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes))
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just returned by the kernel and nothing else knows it.
    unsafe { libc::close(fd as libc::c_int) };
    Ok(())
}
