//! What a gateway is: the version of its distribution, how it was installed, where it runs. Read
//! once, when its first worker is seen.
//! May touch: /proc of gateways, and through their root the metadata of the one distribution that
//! the profile names. Of their environment the names alone.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{
    host::proc::{INITIAL_PID_NAMESPACE, Links, ProcFs, Root},
    model::{Body, Identity, Install, Observation, Program, Role, Source, Spawn},
    profile::Profile,
    redact,
    sensor::clients::gateway_of,
};

/// Gateways that are looked at: beyond them something is wrong with what is taken for one.
const GATEWAYS_MAX: usize = 1_024;
/// So many are remembered before those that have ended are forgotten.
const GATEWAYS_MIN: usize = 64;
/// They are looked for at most that often.
const SWEEP_EVERY_NS: u64 = 10_000_000_000;
/// Bytes of a metadata file that are read.
const METADATA_BYTES_MAX: u64 = 64 << 10;
/// Bytes of an environment that are searched.
const ENVIRON_BYTES_MAX: u64 = 256 << 10;
/// Bytes of an argv in which the interpreter is looked for.
const ARGV_BYTES_MAX: usize = 4 << 10;
/// Folders `lib/python3.N` that are looked into.
const VERSIONS_MAX: usize = 4;
/// Entries of `lib`, and of the `site-packages` in it.
const ENTRIES_MAX: usize = 20_000;

/// Variables whose presence says where and how a program runs.
const VARIABLES: [&str; 16] = [
    "CI",
    "CONDA_PREFIX",
    "GITHUB_ACTIONS",
    "HERMES_HOME",
    "HERMES_TUI_ACTIVE_SESSION_FILE",
    "HERMES_WEB_DIST",
    "INVOCATION_ID",
    "KUBERNETES_SERVICE_HOST",
    "PYTHONHOME",
    "PYTHONPATH",
    "SSH_CONNECTION",
    "STY",
    "TMUX",
    "UV_PROJECT_ENVIRONMENT",
    "VIRTUAL_ENV",
    "container",
];

/// Looks at each gateway once.
#[derive(Debug)]
pub(super) struct ProgramWatch {
    proc: ProcFs,
    package: Option<String>,
    seen: HashSet<Identity>,
    /// When so many are remembered, those that have ended are forgotten.
    sweep_at: usize,
    swept_ns: Option<u64>,
}

impl ProgramWatch {
    /// A watch that has seen no gateway yet.
    pub(super) fn new(proc: ProcFs, profile: &Profile) -> Self {
        let package = profile.project.as_ref().and_then(|project| project.package.clone());
        Self { proc, package, seen: HashSet::new(), sweep_at: GATEWAYS_MIN, swept_ns: None }
    }

    /// What is to be said of a worker's gateway, if it is a new one.
    pub(super) fn spawned(&mut self, spawn: &Spawn, now_ns: u64) -> Option<Observation> {
        let id = gateway_of(spawn)?;
        if spawn.role != Role::Worker || self.seen.contains(&id) {
            return None;
        }
        self.sweep(now_ns);
        if self.seen.len() >= GATEWAYS_MAX {
            return None;
        }
        self.seen.insert(id);
        let program = self.look(id);
        // Only if it was the gateway that was read, and not who got its pid.
        let stat = self.proc.stat(id.pid).ok()??;
        let told = self.proc.is_same(id, &stat).then_some(program)?;
        Some(Observation { boottime_ns: now_ns, body: Body::Program(Box::new(told)) })
    }

    /// Forgets gateways that have ended, once there are twice as many as were left the last time.
    fn sweep(&mut self, now_ns: u64) {
        let lately = self.swept_ns.is_some_and(|at| now_ns < at.saturating_add(SWEEP_EVERY_NS));
        if self.seen.len() < self.sweep_at || lately {
            return;
        }
        let proc = &self.proc;
        let lives =
            |id: Identity| matches!(proc.stat(id.pid), Ok(Some(it)) if proc.is_same(id, &it));
        self.seen.retain(|id| lives(*id));
        self.seen.shrink_to(GATEWAYS_MIN);
        self.sweep_at = (self.seen.len() * 2).clamp(GATEWAYS_MIN, GATEWAYS_MAX);
        self.swept_ns = Some(now_ns);
    }

    fn look(&self, id: Identity) -> Program {
        let mut program = Program {
            pid: id.pid,
            start_ns: id.start_ns,
            package: None,
            version: None,
            install: None,
            installer: None,
            python: None,
            container: None,
            unit: None,
            environment: self.environment(id.pid),
            source: Source::Proc,
        };
        if let Some(cgroup) = self.read(id.pid, "cgroup") {
            program.container = container(&cgroup).map(str::to_owned);
            program.unit = unit(&cgroup).map(redact::unit);
        }
        let namespace = fs::read_link(self.proc.path(id.pid, "ns/pid"));
        if namespace.is_ok_and(|at| at != Path::new(INITIAL_PID_NAMESPACE)) {
            program.container.get_or_insert_with(|| "other".to_owned());
        }
        if let Some(prefix) = self.prefix(id.pid) {
            self.distribution(id.pid, &prefix, &mut program);
        }
        program
    }

    fn read(&self, pid: u32, name: &str) -> Option<String> {
        let mut text = Vec::new();
        let file = File::open(self.proc.path(pid, name)).ok()?;
        file.take(METADATA_BYTES_MAX).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn environment(&self, pid: u32) -> Vec<String> {
        let mut bytes = Vec::new();
        let read = File::open(self.proc.path(pid, "environ"))
            .and_then(|file| file.take(ENVIRON_BYTES_MAX).read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
        let names: HashSet<&[u8]> = bytes
            .split(|&byte| byte == 0)
            .filter_map(|line| line.split(|&byte| byte == b'=').next())
            .collect();
        let present = VARIABLES.into_iter().filter(|name| names.contains(name.as_bytes()));
        present.map(str::to_owned).collect()
    }

    /// The prefix of its Python: `/opt/v` of `/opt/v/bin/python3`, as the process names it.
    fn prefix(&self, pid: u32) -> Option<PathBuf> {
        let cmdline = self.proc.cmdline(pid, ARGV_BYTES_MAX).ok()??;
        let tokens = cmdline.tokens();
        let interpreter = Path::new(OsStr::from_bytes(tokens.first()?));
        let named = interpreter.is_absolute().then(|| interpreter.to_owned());
        // A bare `python3` was found in PATH; the link leads past the venv's own.
        let path = named.or_else(|| fs::read_link(self.proc.path(pid, "exe")).ok())?;
        let plain =
            path.components().all(|it| matches!(it, Component::RootDir | Component::Normal(_)));
        let bin = path.parent().filter(|bin| bin.ends_with("bin"))?;
        plain.then(|| bin.parent().map(Path::to_owned))?
    }

    fn distribution(&self, pid: u32, prefix: &Path, program: &mut Program) {
        let lib = prefix.join("lib");
        let Ok(root) = Root::of(&self.proc, pid) else { return };
        let mut names = root.list(&lib, ENTRIES_MAX).unwrap_or_default();
        names.retain(|name| version_of(name).is_some());
        for name in names.iter().take(VERSIONS_MAX) {
            let Some(version) = version_of(name) else { continue };
            program.python.get_or_insert_with(|| version.to_owned());
            if let Some(package) = &self.package
                && let Some(folder) =
                    metadata(&root, &lib.join(name).join("site-packages"), package)
            {
                version.clone_into(program.python.get_or_insert_default());
                describe(&root, &folder, package, program);
                return;
            }
        }
    }
}

/// The folder with the metadata of a distribution (PEP 376, PEP 503 for its name).
fn metadata(root: &Root, site_packages: &Path, package: &str) -> Option<PathBuf> {
    let wanted = normalised(package);
    let mut names = root.list(site_packages, ENTRIES_MAX).ok()?.into_iter();
    let found = names.find(|name| {
        let stem = name.to_str().and_then(|name| name.strip_suffix(".dist-info"));
        let named = stem.and_then(|stem| stem.split_once('-'));
        named.is_some_and(|(name, _)| normalised(name) == wanted)
    });
    found.map(|name| site_packages.join(name))
}

/// `3.11` of `python3.11`.
fn version_of(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_prefix("python").filter(|version| is_version(version))
}

fn normalised(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

fn describe(root: &Root, folder: &Path, package: &str, program: &mut Program) {
    program.package = Some(package.to_owned());
    program.install = Some(Install::Package);
    let read = |name: &str| {
        let bytes = root.read(&folder.join(name), METADATA_BYTES_MAX, Links::Follow).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let metadata = read("METADATA").unwrap_or_default();
    let version = metadata.lines().find_map(|line| line.strip_prefix("Version:"));
    program.version = version.map(str::trim).filter(|it| is_version(it)).map(str::to_owned);
    let installer = read("INSTALLER").unwrap_or_default();
    let installer = installer.trim();
    let known = ["pip", "uv", "poetry", "pdm", "conda", "pipx"];
    program.installer = known.contains(&installer).then(|| installer.to_owned());
    // Its address may have a password in it: only its kind is looked at.
    let Some(direct) = read("direct_url.json") else { return };
    let Ok(direct) = serde_json::from_str::<serde_json::Value>(&direct) else { return };
    program.install = Some(if direct.get("vcs_info").is_some() {
        Install::Vcs
    } else if direct.pointer("/dir_info/editable") == Some(&serde_json::Value::Bool(true)) {
        Install::Editable
    } else if direct.get("dir_info").is_some() {
        Install::Folder
    } else {
        Install::Package
    });
}

/// `0.19.0`, `3.11`, `1.0rc1+local`: what may be a version, and is too short for anything else.
fn is_version(text: &str) -> bool {
    text.len() <= 24
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-'))
        && text.bytes().filter(u8::is_ascii_alphabetic).count() <= 8
}

/// The sort of container that a cgroup (cgroups(7), /proc/PID/cgroup) belongs to.
pub(super) fn container(cgroup: &str) -> Option<&'static str> {
    const SORTS: [(&str, &str); 7] = [
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("buildkit", "docker"),
        ("lxc", "lxc"),
        ("machine.slice", "other"),
        ("containerd", "other"),
    ];
    // `docker.service` is the daemon, not what runs in it.
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut parts =
        paths.flat_map(|path| path.split('/')).filter(|part| !part.ends_with(".service"));
    parts.find_map(|part| SORTS.iter().find(|(mark, _)| part.contains(mark)).map(|(_, sort)| *sort))
}

/// The innermost systemd service or scope in a cgroup.
pub(super) fn unit(cgroup: &str) -> Option<&str> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut units = paths.flat_map(|path| path.rsplit('/'));
    units.find(|part| {
        part.rsplit_once('.').is_some_and(|(_, sort)| matches!(sort, "service" | "scope"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_tell_containers_and_units() {
        for (cgroup, sort, service) in [
            ("0::/system.slice/hermes.service\n", None, Some("hermes.service")),
            ("0::/system.slice/docker.service\n", None, Some("docker.service")),
            ("0::/system.slice/docker-0a1b.scope\n", Some("docker"), Some("docker-0a1b.scope")),
            ("12:pids:/kubepods/besteffort/pod1/x\n0::/\n", Some("kubernetes"), None),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/hermes.service\n",
                None,
                Some("hermes.service"),
            ),
            ("0::/\n", None, None),
        ] {
            assert_eq!((container(cgroup), unit(cgroup)), (sort, service), "{cgroup}");
        }
    }

    #[test]
    fn what_is_described_is_the_gateway_and_no_launcher() {
        use crate::host::proc::fake::{FAKE, Fake, FakeProc};
        let fake = FakeProc::new();
        let mut watch = ProgramWatch::new(fake.proc(), &Profile::hermes());
        let mut spawn = crate::evidence::samples::spawn();
        spawn.role = Role::Worker;
        let process = |pid, launcher: Option<&str>| {
            fake.put(&Fake { pid, ..FAKE });
            let mut process = crate::model::testing::process(Identity { pid, start_ns: 1 });
            process.start_ns = fake.proc().stat(pid).unwrap().unwrap().start_ns;
            process.launcher = launcher.map(str::to_owned);
            process
        };
        spawn.parent.as_mut().unwrap().process = process(102, Some("sh -c"));
        spawn.ancestors = vec![process(101, Some("npm exec")), process(100, None)];
        let told = watch.spawned(&spawn, 1).expect("a new gateway");
        let Body::Program(program) = told.body else { panic!("{told:?}") };
        assert_eq!(program.pid, 100);
        assert!(watch.spawned(&spawn, 2).is_none(), "once each");
    }

    #[test]
    fn gateways_that_ended_leave_room_for_others() {
        use crate::host::proc::fake::{FAKE, Fake, FakeProc};
        let fake = FakeProc::new();
        let mut watch = ProgramWatch::new(fake.proc(), &Profile::hermes());
        let mut spawn = crate::evidence::samples::spawn();
        spawn.role = Role::Worker;
        let mut told = 0;
        for round in 0..2 * GATEWAYS_MAX as u32 {
            let pid = 100 + round;
            fake.put(&Fake { pid, ..FAKE });
            let parent = &mut spawn.parent.as_mut().unwrap().process;
            parent.pid = pid;
            parent.start_ns = fake.proc().stat(pid).unwrap().unwrap().start_ns;
            let now_ns = u64::from(round) * SWEEP_EVERY_NS;
            told += usize::from(watch.spawned(&spawn, now_ns).is_some());
            assert!(watch.spawned(&spawn, now_ns).is_none(), "once each");
            fake.remove(pid);
        }
        assert_eq!(told, 2 * GATEWAYS_MAX);
        assert!(watch.seen.len() <= GATEWAYS_MIN);
    }

    #[test]
    fn a_distribution_is_told_from_its_metadata() {
        let root = tempfile::tempdir().unwrap();
        let site = root.path().join("site-packages");
        let info = site.join("hermes_agent-0.19.0.dist-info");
        fs::create_dir_all(&info).unwrap();
        fs::create_dir_all(site.join("hermes_agent_extra-9.dist-info")).unwrap();
        fs::write(info.join("METADATA"), "Metadata-Version: 2.4\nVersion: 0.19.0\n").unwrap();
        fs::write(info.join("INSTALLER"), "uv\n").unwrap();
        let own = Root::of(&ProcFs::default(), std::process::id()).unwrap();
        let found = metadata(&own, &site, "hermes-agent").unwrap();
        assert_eq!(found, info);
        let look = || {
            let mut watch = ProgramWatch::new(ProcFs::new("/proc"), &Profile::hermes());
            watch.package = None;
            let mut program = watch.look(Identity { pid: std::process::id(), start_ns: 1 });
            describe(&own, &info, "hermes-agent", &mut program);
            (program.version, program.installer, program.install)
        };
        let version = Some("0.19.0".to_owned());
        let uv = Some("uv".to_owned());
        assert_eq!(look(), (version.clone(), uv.clone(), Some(Install::Package)));
        let secret = r#"{"url": "https://u:hunter2@host/x", "vcs_info": {"vcs": "git"}}"#;
        fs::write(info.join("direct_url.json"), secret).unwrap();
        assert_eq!(look(), (version.clone(), uv, Some(Install::Vcs)));
        fs::write(info.join("direct_url.json"), r#"{"dir_info": {"editable": true}}"#).unwrap();
        // An installer that nobody knows may say anything.
        fs::write(info.join("INSTALLER"), "hunter2\n").unwrap();
        assert_eq!(look(), (version, None, Some(Install::Editable)));
        fs::write(info.join("METADATA"), "Version: hunter2-is-the-password\n").unwrap();
        assert_eq!(look().0, None);
    }
}
