use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::{
    fs::{Stat, fstat},
    time::{ClockId, clock_gettime},
};

use crate::{
    host::{
        clock::boottime_ns,
        proc::{Links, ProcFs, Root, read_itself},
    },
    profile::TerminalRule,
    redact,
};

/// More than an environment that execve(2) takes is not read.
const ENVIRON_MAX: u64 = 2 << 20;
const SESSION_FILE_MAX: u64 = 64 << 10;

/// What a terminal's process says of the session that it shows.
#[derive(Debug, Default)]
pub(in crate::sensor) struct Named {
    /// What its session file names, escaped.
    pub(in crate::sensor) session: Option<String>,
    /// When that file was written last, ns of the boot clock. The file system's clock ticks every
    /// 1 to 10 ms, so this may be that much too early.
    pub(in crate::sensor) written_ns: Option<u64>,
    /// What it was started to show, escaped.
    pub(in crate::sensor) resumes: Option<String>,
    /// The file, to be watched (`O_PATH`).
    pub(in crate::sensor) file: Option<OwnedFd>,
}

impl Named {
    /// What this process says, if anything. Only the values of the variables that the rule names are
    /// looked at.
    pub(in crate::sensor) fn by(proc: &ProcFs, rule: &TerminalRule, pid: u32) -> Option<Self> {
        let mut environ = Vec::new();
        let file = File::open(proc.path(pid, "environ")).ok()?;
        file.take(ENVIRON_MAX).read_to_end(&mut environ).ok()?;
        let value = |name: &str| {
            let mut entries = environ.split(|&b| b == 0);
            entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        let resumes = rule.resume_env.as_deref().and_then(value);
        let resumes = resumes.filter(|key| !key.is_empty()).map(redact::escape);
        let path = value(&rule.session_file_env);
        if path.is_none() && resumes.is_none() {
            return None;
        }
        let mut named = Self { resumes, ..Self::default() };
        if let Some(path) = path {
            named.read(proc, rule, pid, path);
        }
        let says = named.session.is_some() || named.resumes.is_some() || named.file.is_some();
        says.then_some(named)
    }

    fn read(&mut self, proc: &ProcFs, rule: &TerminalRule, pid: u32, path: &[u8]) -> Option<()> {
        // No link is followed anywhere in the path.
        let path = Path::new(OsStr::from_bytes(path.strip_prefix(b"/")?));
        let file = Root::of(proc, pid).ok()?.file(path, Links::Refuse).ok()?;
        let text = read_itself(&file, SESSION_FILE_MAX).ok();
        let file = self.file.insert(file);
        self.session = Some(session_in(&text?, &rule.session_key)?);
        self.written_ns = fstat(&*file).ok().and_then(|stat| written_ns(&stat));
        Some(())
    }
}

/// The session that a session file names, escaped.
pub(in crate::sensor) fn session_in(text: &[u8], key: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_slice(text).ok()?;
    let session = object.get(key)?.as_str().filter(|session| !session.is_empty())?;
    // The gate decides what is shown, as it does for the worker's key: they are to be equal.
    Some(redact::escape(session.as_bytes()))
}

/// The mtime of a file in the boot clock; none where it is in the future or before the boot.
fn written_ns(stat: &Stat) -> Option<u64> {
    let now = clock_gettime(ClockId::Realtime);
    let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    let ago = ns(now.tv_sec, now.tv_nsec) - ns(stat.st_mtime, stat.st_mtime_nsec as i64);
    let at = i128::from(boottime_ns()).checked_sub(ago)?;
    u64::try_from(at).ok().filter(|at| ago >= 0 && *at > 0)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::{
        host::proc::fake::{Fake, FakeProc},
        profile::Profile,
    };

    #[test]
    fn only_the_named_variables_are_read_and_the_file_says_when_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = boottime_ns();
        fs::write(file.path(), r#"{"session_id": "a1b2c3d4"}"#).unwrap();
        let fake = FakeProc::new();
        fake.put(&Fake { pid: 10, ..Fake::default() });
        symlink("/", fake.dir(10).join("root")).unwrap();
        let environ = |text: &str| fs::write(fake.dir(10).join("environ"), text).unwrap();
        let rule = Profile::hermes().terminal.unwrap();
        let named = || Named::by(&fake.proc(), &rule, 10);

        environ("HERMES_TUI_GATEWAY_URL=ws://h/?token=secret\0HERMES_TUI_RESUMED=x\0");
        assert!(named().is_none());

        let path = file.path().display();
        environ(&format!(
            "HERMES_TUI_RESUME=KEY\0HERMES_TUI_ACTIVE_SESSION_FILE={path}\0URL=token=secret\0"
        ));
        let found = named().unwrap();
        assert_eq!(found.session.as_deref(), Some("a1b2c3d4"));
        assert_eq!(found.resumes.as_deref(), Some("KEY"));
        let written = found.written_ns.unwrap();
        // A tick of the file system's clock.
        assert!((before - 11_000_000..=boottime_ns()).contains(&written), "{before} {written}");

        // It is there before its process writes it.
        fs::write(file.path(), "").unwrap();
        let found = named().unwrap();
        assert!(found.session.is_none() && found.file.is_some());
    }
}
