//! The key of this host's pseudonyms: a file that only its owner can read, made when it is first
//! needed.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::geteuid;

use crate::redact::PseudonymKey;

/// Where state is kept, for several on one machine that have nothing to do with each other.
const ELSEWHERE: &str = "SLASHTRACE_STATE_DIR";
const USUAL: &str = "/var/lib/slashtrace";
const NAME: &str = "pseudonyms.key";
const BYTES: usize = PseudonymKey::BYTES;

/// The key under which this user's slashtrace makes pseudonyms on this host; made if there is none.
///
/// # Errors
/// If there is none and none can be made, or it is not this user's alone.
pub(super) fn of_this_host() -> Result<PseudonymKey> {
    let folder = folder().ok_or_else(|| anyhow!("neither XDG_STATE_HOME nor HOME is set"))?;
    kept_in(&folder)
}

fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let own = || {
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        state.map(|state| state.join("slashtrace"))
    };
    absolute(ELSEWHERE).or_else(|| if geteuid().is_root() { Some(USUAL.into()) } else { own() })
}

fn kept_in(folder: &Path) -> Result<PseudonymKey> {
    let path = folder.join(NAME);
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    let cannot = || format!("cannot keep the key of pseudonyms in {}", folder.display());
    DirBuilder::new().mode(0o700).recursive(true).create(folder).with_context(cannot)?;
    let metadata = fs::symlink_metadata(folder).with_context(cannot)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        bail!("{} is not a folder that this user alone may change", folder.display());
    }
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes))?;
    // Whole or not at all, and whoever comes second takes the first one's.
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .with_context(cannot)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).with_context(cannot)?;
    match file.persist_noclobber(&path) {
        Ok(_) => Ok(PseudonymKey::from_bytes(bytes)),
        Err(error) => match read(&path)? {
            Some(key) => Ok(key),
            None => Err(error.error).with_context(cannot),
        },
    }
}

/// The key in a file; none if there is no file.
fn read(path: &Path) -> Result<Option<PseudonymKey>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    let metadata = file.metadata()?;
    let own = metadata.is_file()
        && metadata.uid() == geteuid().as_raw()
        && matches!(metadata.mode() & 0o777, 0o600 | 0o400)
        && metadata.len() == BYTES as u64;
    if !own {
        bail!("{} is not a key that this user alone may read", path.display());
    }
    let mut bytes = [0; BYTES];
    file.read_exact(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(PseudonymKey::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_is_its_owner_s_alone() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("a/slashtrace");
        let key = kept_in(&folder).unwrap();
        assert_eq!(kept_in(&folder).unwrap(), key);
        assert_ne!(kept_in(&state.path().join("b")).unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn what_others_may_read_or_is_no_key_is_refused() {
        let state = tempfile::tempdir().unwrap();
        kept_in(state.path()).unwrap();
        let path = state.path().join(NAME);
        let refused = || {
            let error = kept_in(state.path()).unwrap_err().to_string();
            assert!(error.contains(NAME), "{error}");
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        refused();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        kept_in(state.path()).unwrap();
        fs::write(&path, "short").unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
    }

    #[test]
    fn a_folder_that_others_may_change_is_refused() {
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(kept_in(state.path()).unwrap_err().to_string().contains("alone may change"));
    }
}
