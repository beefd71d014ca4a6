//! What the facts mean for slashtrace, and what to do where they are not as they should be.

use super::{
    Check, Level,
    facts::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Facts, Mount, lockdown, version},
};
use crate::host::{clock::is_shifted, proc::INITIAL_PID_NAMESPACE};

/// The oldest kernel whose BPF has what the programs use (`bpf_loop`, in Linux 5.17).
const OLDEST: (u32, u32) = (5, 17);
/// The oldest kernel that the programs were tested on.
const TESTED: (u32, u32) = (6, 1);
/// The initial user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

const POLL: &str = "run with --sensor poll, which reads /proc alone";

/// All checks but those of the hooks.
pub(super) fn environment(facts: &Facts) -> Vec<Check> {
    vec![
        kernel(facts),
        btf(facts),
        capabilities(facts),
        ptrace(facts),
        lockdown_mode(facts),
        pid_namespace(facts),
        time_namespace(facts),
        hidepid(facts),
        clients(facts),
        tracefs(facts),
        unprivileged(facts),
        terminals(),
    ]
}

fn terminals() -> Check {
    // `DEVPTS_SUPER_MAGIC` (include/uapi/linux/magic.h).
    let devpts = rustix::fs::statfs("/dev/pts").is_ok_and(|kind| kind.f_type as u64 == 0x1cd1);
    let found = if devpts {
        Ok("inotify on /dev/pts can be had; `hook terminal` says what tells who closed one"
            .to_owned())
    } else {
        Err((
            "no devpts on /dev/pts: closed terminals are not seen, so `terminal-orphan` cannot be \
             judged"
                .to_owned(),
            "mount -t devpts devpts /dev/pts (in a container: share the host's)".to_owned(),
        ))
    };
    check("terminal", Level::Optional, found)
}

fn check(name: &str, level: Level, found: Result<String, (String, String)>) -> Check {
    let name = name.to_owned();
    match found {
        Ok(detail) => Check { name, ok: true, level, detail, next_step: None },
        Err((detail, next)) => Check { name, ok: false, level, detail, next_step: Some(next) },
    }
}

fn kernel(facts: &Facts) -> Check {
    let release = &facts.release;
    let found = match version(release) {
        Some(version) if version >= TESTED => Ok(format!("Linux {release}")),
        Some(version) if version >= OLDEST => {
            Ok(format!("Linux {release}: should do; tested from 6.1 on"))
        }
        Some(_) => Err((
            format!("Linux {release} is older than 5.17, the first with all that is used"),
            format!("boot Linux 6.1 or newer, or {POLL}"),
        )),
        None => Err((
            format!("`{release}` is no version that can be read"),
            format!("look at the hooks below; if they do not load, {POLL}"),
        )),
    };
    check("kernel", Level::Required, found)
}

fn btf(facts: &Facts) -> Check {
    let found = match &facts.btf_bytes {
        Ok(bytes) => Ok(format!("/sys/kernel/btf/vmlinux, {} KiB", bytes / 1024)),
        Err(error) => Err((
            format!("/sys/kernel/btf/vmlinux cannot be opened: {error}"),
            format!(
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (in a container: mount /sys), or {POLL}"
            ),
        )),
    };
    check("btf", Level::Required, found)
}

fn capabilities(facts: &Facts) -> Check {
    let all = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
    let missing: Vec<&str> =
        all.iter().filter(|(bit, _)| !facts.has(*bit)).map(|(_, name)| *name).collect();
    let initial = facts.user_namespace.as_deref() == Ok(INITIAL_USER_NAMESPACE);
    let found = if let Ok(namespace) = &facts.user_namespace
        && !initial
    {
        Err((
            format!("in a user namespace ({namespace}): its capabilities count for nothing in BPF"),
            format!("run it outside of the user namespace (rootful container), or {POLL}"),
        ))
    } else if missing.is_empty() {
        Ok("CAP_BPF and CAP_PERFMON".to_owned())
    } else if facts.has(CAP_SYS_ADMIN) {
        Ok("CAP_SYS_ADMIN".to_owned())
    } else if let Err(error) = &facts.status {
        Err((format!("/proc/self/status cannot be read: {error}"), "mount /proc".to_owned()))
    } else {
        Err((
            format!("{} missing", missing.join(" and ")),
            format!(
                "run it as root, or give the program cap_bpf,cap_perfmon,cap_sys_ptrace+ep with \
                 setcap, or {POLL}"
            ),
        ))
    };
    check("capabilities", Level::Required, found)
}

fn ptrace(facts: &Facts) -> Check {
    let found = if facts.has(CAP_SYS_PTRACE) {
        Ok("CAP_SYS_PTRACE: io and descriptors of all users' processes can be read".to_owned())
    } else {
        Err((
            "CAP_SYS_PTRACE missing: /proc/PID/io and /proc/PID/fd of other users' processes \
             cannot be read, so `unreachable` cannot be judged there"
                .to_owned(),
            "run it as root or as the user of the workers, or add cap_sys_ptrace".to_owned(),
        ))
    };
    check("ptrace", Level::Optional, found)
}

fn lockdown_mode(facts: &Facts) -> Check {
    let found = match facts.lockdown.as_deref().map(lockdown) {
        Ok(Some("confidentiality")) => Err((
            "confidentiality: kernel programs may not read kernel memory".to_owned(),
            format!("boot with lockdown=integrity (or without it), or {POLL}"),
        )),
        Ok(Some(mode)) => Ok(mode.to_owned()),
        Ok(None) => Ok("not known (no mode is marked)".to_owned()),
        Err(error) => Ok(format!("not known, no lockdown or no securityfs here: {error}")),
    };
    check("lockdown", Level::Required, found)
}

fn pid_namespace(facts: &Facts) -> Check {
    let found = match facts.pid_namespace.as_deref() {
        Ok(INITIAL_PID_NAMESPACE) => Ok("the initial one".to_owned()),
        Ok(other) => Err((
            format!("{other} is not the initial one: the kernel's pids are not those of /proc"),
            format!("run the container with --pid=host, or {POLL}"),
        )),
        Err(error) => Err((
            format!("/proc/self/ns/pid cannot be read: {error}"),
            "mount /proc: `mount -t proc proc /proc`".to_owned(),
        )),
    };
    check("pid namespace", Level::Required, found)
}

fn time_namespace(facts: &Facts) -> Check {
    let found = match &facts.time_offsets {
        Some(offsets) if is_shifted(offsets) => Err((
            "clocks are shifted: start times of /proc are not those of the kernel".to_owned(),
            format!("run it outside of the time namespace, or {POLL}"),
        )),
        Some(_) => Ok("clocks are not shifted".to_owned()),
        None => Ok("this kernel has none".to_owned()),
    };
    check("time namespace", Level::Required, found)
}

/// sock_diag(7), or else proc_pid_net(5): the sockets of a network namespace.
fn clients(facts: &Facts) -> Check {
    let found = match (&facts.sock_diag, &facts.tcp) {
        (Ok(()), _) => {
            Ok("sock_diag shows the connections to gateways, and who spoke last".to_owned())
        }
        (Err(refused), Ok(_)) => Err((
            format!(
                "sock_diag: {refused}: /proc/PID/net shows the connections to gateways, but not who \
                 spoke last: of one session, `abandoned` is judged only by who connected last"
            ),
            "modprobe tcp_diag unix_diag".to_owned(),
        )),
        (Err(refused), Err(error)) => Err((
            format!(
                "sock_diag: {refused}; /proc/self/net/tcp: {error}: `abandoned` cannot be judged"
            ),
            "modprobe tcp_diag unix_diag, or mount /proc without subset=pid".to_owned(),
        )),
    };
    check("clients", Level::Optional, found)
}

fn hidepid(facts: &Facts) -> Check {
    let mounts = facts.mountinfo.as_deref().unwrap_or_default();
    // Of several mounts at one place the last is seen.
    let proc = Mount::all(mounts).filter(|mount| mount.point == "/proc").last();
    let hidden = proc.as_ref().and_then(|mount| mount.option("hidepid"));
    let only_pids = proc.as_ref().and_then(|mount| mount.option("subset")) == Some("pid");
    let remount = "mount -o remount,hidepid=0 /proc";
    // fs/proc/base.c, has_pid_permissions: who may trace a process sees it.
    let found = match hidden.filter(|&mode| !matches!(mode, "0" | "off")) {
        _ if only_pids => Err((
            "subset=pid: /proc/meminfo and /proc/sys cannot be read".to_owned(),
            "mount /proc without subset=pid".to_owned(),
        )),
        None => Ok("/proc shows all processes".to_owned()),
        Some(mode) if facts.has(CAP_SYS_PTRACE) => {
            Ok(format!("hidepid={mode} does not hide from CAP_SYS_PTRACE"))
        }
        Some(mode) => Err((
            format!("hidepid={mode}: other users' processes are hidden"),
            format!("run it as root, or `{remount}`"),
        )),
    };
    check("hidepid", Level::Optional, found)
}

fn tracefs(facts: &Facts) -> Check {
    let mounts = facts.mountinfo.as_deref().unwrap_or_default();
    let detail = match Mount::all(mounts).find(|mount| mount.kind == "tracefs") {
        Some(mount) => format!("mounted on {}", mount.point),
        None => "not mounted; the tracepoints in use do not need it".to_owned(),
    };
    check("tracefs", Level::Info, Ok(detail))
}

fn unprivileged(facts: &Facts) -> Check {
    let detail = match facts.unprivileged_bpf.as_deref().map(str::trim) {
        Ok("0") => "0: allowed to all, but tracing still needs CAP_BPF and CAP_PERFMON".to_owned(),
        Ok(value @ ("1" | "2")) => format!("{value}: BPF only with CAP_BPF, as is usual"),
        Ok(value) => value.to_owned(),
        Err(error) => format!("not known: {error}"),
    };
    check("unprivileged_bpf_disabled", Level::Info, Ok(detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Facts {
        let text = |text: &str| Ok(text.to_owned());
        Facts {
            release: "6.12.5-amd64".to_owned(),
            btf_bytes: Ok(6 << 20),
            mountinfo: text("22 1 0:21 / /proc rw - proc proc rw\n"),
            status: text("CapEff:\t000001ffffffffff\n"),
            lockdown: text("none [integrity] confidentiality\n"),
            unprivileged_bpf: text("2\n"),
            tcp: text("  sl  local_address\n"),
            sock_diag: Ok(()),
            pid_namespace: text(INITIAL_PID_NAMESPACE),
            user_namespace: text(INITIAL_USER_NAMESPACE),
            time_offsets: Some("monotonic 0 0\nboottime 0 0\n".to_owned()),
        }
    }

    /// What fails, with its next step.
    fn failed(change: impl FnOnce(&mut Facts)) -> Vec<(String, String)> {
        let mut facts = fine();
        change(&mut facts);
        let failed = environment(&facts).into_iter().filter(|check| !check.ok);
        failed.map(|check| (check.name, check.next_step.expect("a next step"))).collect()
    }

    fn only(change: impl FnOnce(&mut Facts)) -> (String, String) {
        let failed = failed(change);
        assert_eq!(failed.len(), 1, "{failed:?}");
        failed.into_iter().next().unwrap()
    }

    #[test]
    fn a_usual_machine_is_fine() {
        assert_eq!(failed(|_| {}), []);
        assert_eq!(failed(|facts| facts.release = "5.17.0".to_owned()), []);
        assert_eq!(failed(|facts| facts.lockdown = Err("No such file".to_owned())), []);
        assert_eq!(failed(|facts| facts.time_offsets = None), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_named_with_what_to_do() {
        let (name, next) = only(|facts| facts.release = "5.15.0-91-generic".to_owned());
        assert!(name == "kernel" && next.contains("--sensor poll"));
        let (name, next) = only(|facts| facts.btf_bytes = Err("No such file".to_owned()));
        assert!(name == "btf" && next.contains("CONFIG_DEBUG_INFO_BTF"));
        let (name, next) =
            only(|facts| facts.lockdown = Ok("none integrity [confidentiality]".to_owned()));
        assert!(name == "lockdown" && next.contains("lockdown=integrity"));
        let (name, next) = only(|facts| facts.pid_namespace = Ok("pid:[4026532281]".to_owned()));
        assert!(name == "pid namespace" && next.contains("--pid=host"));
        let (name, _) = only(|facts| facts.time_offsets = Some("boottime 7 0\n".to_owned()));
        assert_eq!(name, "time namespace");
        let (name, _) = only(|facts| facts.user_namespace = Ok("user:[4026532000]".to_owned()));
        assert_eq!(name, "capabilities");
        let (name, next) = only(|facts| facts.sock_diag = Err("No such file".to_owned()));
        assert!(name == "clients" && next == "modprobe tcp_diag unix_diag");
        assert_eq!(failed(|facts| facts.tcp = Err("No such file".to_owned())), []);
    }

    #[test]
    fn capabilities_in_part() {
        let with = |bits: u64| {
            failed(|facts| facts.status = Ok(format!("CapEff:\t{bits:016x}\n")))
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(with(0), ["capabilities", "ptrace"]);
        assert_eq!(with(1 << CAP_BPF | 1 << CAP_PERFMON), ["ptrace"]);
        assert_eq!(with(1 << CAP_SYS_ADMIN | 1 << CAP_SYS_PTRACE), Vec::<String>::new());
        assert_eq!(with(1 << CAP_BPF | 1 << CAP_SYS_PTRACE), ["capabilities"]);
    }

    #[test]
    fn hidepid_matters_without_the_right_to_trace() {
        let hiding = "22 1 0:21 / /proc rw - proc proc rw,hidepid=2\n";
        assert_eq!(failed(|facts| facts.mountinfo = Ok(hiding.to_owned())), []);
        let failed = failed(|facts| {
            facts.mountinfo = Ok(hiding.to_owned());
            facts.status = Ok(format!("CapEff:\t{:016x}\n", 1u64 << CAP_SYS_ADMIN));
        });
        let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ptrace", "hidepid"]);
    }
}
