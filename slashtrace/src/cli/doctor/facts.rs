//! What the machine says of itself, and the parts of it that matter.

use std::{fs, io};

use crate::sensor::clients;

/// `CAP_SYS_PTRACE` (linux/capability.h).
pub(super) const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN`.
pub(super) const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`, since Linux 5.8.
pub(super) const CAP_PERFMON: u32 = 38;
/// `CAP_BPF`, since Linux 5.8.
pub(super) const CAP_BPF: u32 = 39;

/// What the files say; the errors are kept for people.
#[derive(Debug)]
pub(super) struct Facts {
    /// `uname -r`.
    pub(super) release: String,
    /// Size of /sys/kernel/btf/vmlinux if it can be opened.
    pub(super) btf_bytes: Result<u64, String>,
    /// /proc/self/mountinfo.
    pub(super) mountinfo: Result<String, String>,
    /// /proc/self/status.
    pub(super) status: Result<String, String>,
    /// /sys/kernel/security/lockdown.
    pub(super) lockdown: Result<String, String>,
    /// /proc/sys/kernel/unprivileged_bpf_disabled.
    pub(super) unprivileged_bpf: Result<String, String>,
    /// /proc/self/net/tcp.
    pub(super) tcp: Result<String, String>,
    /// Whether the kernel tells of sockets by sock_diag.
    pub(super) sock_diag: Result<(), String>,
    /// /proc/self/ns/pid.
    pub(super) pid_namespace: Result<String, String>,
    /// /proc/self/ns/user.
    pub(super) user_namespace: Result<String, String>,
    /// /proc/self/timens_offsets; none if the kernel has no time namespaces.
    pub(super) time_offsets: Option<String>,
}

impl Facts {
    /// Reads them.
    pub(super) fn gather() -> Self {
        let btf = fs::File::open("/sys/kernel/btf/vmlinux").and_then(|file| file.metadata());
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            btf_bytes: btf.map(|metadata| metadata.len()).map_err(why),
            mountinfo: read("/proc/self/mountinfo"),
            status: read("/proc/self/status"),
            lockdown: read("/sys/kernel/security/lockdown"),
            unprivileged_bpf: read("/proc/sys/kernel/unprivileged_bpf_disabled"),
            tcp: read("/proc/self/net/tcp"),
            sock_diag: clients::ask_sock_diag().map_err(|error| error.to_string()),
            pid_namespace: link("/proc/self/ns/pid"),
            user_namespace: link("/proc/self/ns/user"),
            time_offsets: fs::read_to_string("/proc/self/timens_offsets").ok(),
        }
    }

    /// Effective capabilities, a bit each.
    pub(super) fn capabilities(&self) -> Option<u64> {
        effective(self.status.as_ref().ok()?)
    }

    /// Whether a capability is effective.
    pub(super) fn has(&self, capability: u32) -> bool {
        self.capabilities().is_some_and(|bits| bits & (1 << capability) != 0)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn why(error: io::Error) -> String {
    error.to_string()
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(why)
}

fn link(path: &str) -> Result<String, String> {
    fs::read_link(path).map(|target| target.to_string_lossy().into_owned()).map_err(why)
}

/// `CapEff` of /proc/PID/status, hexadecimal (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// Major and minor number of a kernel release: `6.1.0-39-cloud-amd64`, `5.15-rc1`.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

/// The mode in brackets: `none [integrity] confidentiality` (security/lockdown/lockdown.c).
pub(super) fn lockdown(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode)
}

/// One mount of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Mount<'a> {
    pub(super) point: &'a str,
    pub(super) kind: &'a str,
    /// Options of the file system itself.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// All mounts, in the order in which they were mounted.
    pub(super) fn all(mountinfo: &'a str) -> impl Iterator<Item = Self> {
        mountinfo.lines().filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let mut parts = filesystem.split(' ');
            let kind = parts.next()?;
            Some(Self { point, kind, options: parts.nth(1).unwrap_or_default() })
        })
    }

    /// The value of an option of the file system.
    pub(super) fn option(&self, name: &str) -> Option<&'a str> {
        self.options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock::is_shifted;

    #[test]
    fn releases() {
        assert_eq!(version("6.1.0-39-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.15-rc1"), Some((5, 15)));
        assert_eq!(version("6.18.5+"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn capabilities_are_read_from_status() {
        let status = "Name:\tcat\nCapPrm:\t0000000000000000\nCapEff:\t000000c000000000\n";
        assert_eq!(effective(status), Some(1 << CAP_BPF | 1 << CAP_PERFMON));
        assert_eq!(effective("Name:\tcat\n"), None);
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(lockdown("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(lockdown("none integrity\n"), None);
    }

    #[test]
    fn clocks_are_shifted_by_anything_but_zero() {
        assert!(!is_shifted("monotonic           0         0\nboottime            0         0\n"));
        assert!(is_shifted("monotonic           0         0\nboottime       -86400         0\n"));
        assert!(is_shifted("boottime 0 5\n"));
        assert!(!is_shifted(""));
    }

    #[test]
    fn mounts_with_optional_fields_and_escapes() {
        let text = "\
            22 1 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw,hidepid=invisible\n\
            23 1 0:22 / /mnt/a\\040b rw - tracefs tracefs rw\n\
            broken line\n";
        let mounts: Vec<_> = Mount::all(text).collect();
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].point, mounts[0].kind), ("/proc", "proc"));
        assert_eq!(mounts[0].option("hidepid"), Some("invisible"));
        assert_eq!(mounts[0].option("hide"), None);
        assert_eq!(mounts[1].kind, "tracefs");
        assert_eq!(mounts[1].option("hidepid"), None);
    }
}
