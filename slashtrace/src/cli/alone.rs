use std::{
    env,
    fs::{DirBuilder, File, OpenOptions},
    hash::BuildHasher as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    fs::{FlockOperation, flock, fstat},
    io::Errno,
    process::geteuid,
};

use crate::{evidence::lock_holder, next_step::NextStep as _, profile::Profile, reaper::Policy};

/// Where locks are, beside the usual place: for several on one machine that have nothing to do with
/// each other.
const ELSEWHERE: &str = "SLASHTRACE_RUNTIME_DIR";
const USUAL: &str = "/run/slashtrace";

/// That nobody else ends workers of the same profile, as long as this lives: a worker would get
/// SIGTERM from both.
#[derive(Debug)]
pub(super) struct Alone {
    _locks: Vec<File>,
}

impl Alone {
    /// Takes that place for a policy that ends workers. Two that are each limited to gateways
    /// (`--gateway`) go together if these are different ones.
    ///
    /// # Errors
    /// If somebody has the place: says who.
    pub(super) fn take(profile: &Profile, policy: &Policy) -> Result<Self> {
        let Some(folder) = folder() else { return Ok(Self { _locks: Vec::new() }) };
        take_in(&folder, profile, policy)
    }
}

fn folder() -> Option<PathBuf> {
    let own = || env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("slashtrace"));
    let usual = || if geteuid().is_root() { Some(USUAL.into()) } else { own() };
    env::var_os(ELSEWHERE).map(PathBuf::from).or_else(usual)
}

fn take_in(folder: &Path, profile: &Profile, policy: &Policy) -> Result<Alone> {
    let cannot = || format!("cannot use {} to see to it that nobody else", folder.display());
    DirBuilder::new().mode(0o700).recursive(true).create(folder).with_context(cannot)?;
    let metadata = folder.symlink_metadata().with_context(cannot)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        bail!("{} is not a folder of this user", folder.display());
    }
    let rules = serde_json::to_string(&profile.workers)?;
    // The same in every process: it has no random state.
    let hash = foldhash::quality::FixedState::default().hash_one(rules);
    let all = format!("enforce-{hash:016x}");
    let gateways = &policy.scope.gateways;
    let for_all = if gateways.is_empty() {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    let mut locks = vec![lock(folder, &all, for_all)?];
    for gateway in gateways {
        let name = format!("{all}-{gateway}");
        locks.push(lock(folder, &name, FlockOperation::NonBlockingLockExclusive)?);
    }
    Ok(Alone { _locks: locks })
}

fn lock(folder: &Path, name: &str, how: FlockOperation) -> Result<File> {
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600);
    let file = file.custom_flags(libc::O_NOFOLLOW).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let holder = lock_holder(&fstat(&file)?);
            Err(anyhow!("another slashtrace ends workers of this profile: {holder}"))
                .next_step("stop that one first, or only watch: leave `--policy enforce` out")
        }
        Err(errno) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::Scope;

    #[test]
    fn one_at_a_time_unless_they_have_different_gateways() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("run");
        let profile = Profile::hermes();
        let of = |gateways: &[u32]| {
            let gateways = gateways.iter().copied().collect();
            let scope = Scope { gateways, ..Scope::default() };
            take_in(&folder, &profile, &Policy { scope, ..Policy::default() })
        };
        let whole = of(&[]).unwrap();
        let error = of(&[]).unwrap_err().to_string();
        let mine = format!("ends workers of this profile: pid {}, since", std::process::id());
        assert!(error.contains(&mine), "{error}");
        assert!(of(&[7]).is_err());
        let mut other = Profile::hermes();
        other.workers[0].tokens = vec!["-m".to_owned(), "another".to_owned()];
        take_in(&folder, &other, &Policy::default()).unwrap();
        drop(whole);
        let seven = of(&[7]).unwrap();
        let _eight = of(&[8, 9]).unwrap();
        assert!(of(&[]).is_err() && of(&[9]).is_err());
        drop(seven);
        of(&[7]).unwrap();
    }
}
