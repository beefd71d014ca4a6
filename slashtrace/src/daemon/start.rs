use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    host::proc::ProcFs,
    model::{Host, Reaping, Start},
    profile::Profile,
    reaper::Policy,
    sensor::Description,
};

/// The commit of this build.
pub(crate) const COMMIT: Option<&str> = option_env!("SLASHTRACE_COMMIT");

/// The first record of a recording: the machine (no names of people or hosts), the sensors, the
/// rules.
pub(super) fn start_record(
    description: &Description,
    profile: &Profile,
    policy: Option<&Policy>,
) -> Result<Start> {
    let uname = rustix::system::uname();
    let host = Host {
        distribution: distribution(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        cpus: cpus_online(),
        memory: ProcFs::new("/proc").meminfo().context("cannot read /proc/meminfo")?,
    };
    Ok(Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.map(str::to_owned),
        host,
        sensor: description.kind,
        capabilities: description.capabilities.clone(),
        calls_counted: description.calls_counted,
        profile: profile.clone(),
        limits: description.limits,
        reaping: policy.map(reaping),
        continued: false,
        resumed: false,
        boot_id: boot_id(),
        pseudonyms: None,
    })
}

fn reaping(policy: &Policy) -> Reaping {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Reaping {
        mode: policy.mode,
        triggers: policy.triggers.iter().map(ToString::to_string).collect(),
        min_age_ms: ms(policy.min_age),
        budget_per_minute: policy.budget_per_minute,
        term_grace_ms: ms(policy.term_grace),
    }
}

/// This boot of the machine (random(4)).
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// `debian 12` of an os-release(5) file; nothing that is not a short word.
fn distribution(text: &str) -> Option<String> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        let value = line.trim_matches(['"', '\'']);
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let short = !value.is_empty() && value.len() <= 20 && value.bytes().all(word);
        short.then_some(value)
    };
    let id = value("ID")?;
    Some(value("VERSION_ID").map_or_else(|| id.to_owned(), |version| format!("{id} {version}")))
}

/// CPUs of the machine, not only those that this process may use.
fn cpus_online() -> u32 {
    // SAFETY: sysconf(3) takes a number and touches no memory of ours.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::distribution;

    #[test]
    fn a_distribution_is_two_short_words() {
        let debian =
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(distribution(debian).as_deref(), Some("debian 12"));
        assert_eq!(distribution("ID=arch\n").as_deref(), Some("arch"));
        assert_eq!(distribution("ID=\"a secret; of somebody\"\n"), None);
        assert_eq!(distribution(""), None);
    }
}
