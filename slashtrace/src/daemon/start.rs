use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    model::{Host, Reaping, Start},
    profile::Profile,
    reaper::Policy,
    sensor::{Description, proc::ProcFs},
};

/// The first record of a recording: the machine (no names of people or hosts), the sensors, the
/// rules.
pub(super) fn start_record(
    description: &Description,
    profile: &Profile,
    policy: Option<&Policy>,
) -> Result<Start> {
    let uname = rustix::system::uname();
    let host = Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        cpus: cpus_online(),
        memory: ProcFs::new("/proc").meminfo().context("cannot read /proc/meminfo")?,
    };
    Ok(Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host,
        sensor: description.kind,
        capabilities: description.capabilities.clone(),
        calls_counted: description.calls_counted,
        profile: profile.clone(),
        limits: description.limits,
        reaping: policy.map(reaping),
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

/// CPUs of the machine, not only those that this process may use.
fn cpus_online() -> u32 {
    // SAFETY: sysconf(3) takes a number and touches no memory of ours.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(1).max(1)
}
