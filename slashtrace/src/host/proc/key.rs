use std::{fs, io, os::unix::ffi::OsStrExt as _, path::PathBuf};

use super::{ProcFs, gone_is_none, open};
use crate::{
    model::Identity,
    profile::{KeyPlace, WorkerMatch},
    redact,
};

/// Bytes of an environment that are searched: the kernel allows no more (execve(2), `_STK_LIM`).
const ENVIRON_BYTES_MAX: u64 = 6 << 20;

impl ProcFs {
    /// The key of a worker's session, as it may be shown: from the first of the rule's places that
    /// has one. Its environment and its folder are read only if the rule names them and no place
    /// before them has the key; of a worker that is gone by then they are not known.
    pub fn session_key(&self, worker: Identity, found: &WorkerMatch<'_>) -> Option<String> {
        found.keys.iter().find_map(|place| match place {
            KeyPlace::Argv { key, .. } => Some(redact::escape(key)),
            KeyPlace::Env(name) => {
                let value = self.variable(worker.pid, name).ok().flatten()?;
                (!value.is_empty() && self.is_there(worker)).then(|| redact::escape(&value))
            }
            KeyPlace::Cwd => {
                let folder = self.cwd(worker.pid).ok().flatten()?;
                self.is_there(worker).then(|| redact::folder_key(folder.as_os_str().as_bytes()))
            }
        })
    }

    /// Value of one variable in the environment that a process was started with; `None` if it is
    /// not there, or the process is gone. Only its owner and root may read it.
    pub fn variable(&self, pid: u32, name: &str) -> io::Result<Option<Vec<u8>>> {
        use io::Read as _;
        let read = || -> io::Result<Vec<u8>> {
            let mut environ = Vec::new();
            let file = open(&self.path(pid, "environ"))?;
            file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ)?;
            Ok(environ)
        };
        let Some(environ) = gone_is_none(read())? else { return Ok(None) };
        let value = environ
            .split(|&byte| byte == 0)
            .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        Ok(value.map(<[u8]>::to_vec))
    }

    /// The folder in which a process runs; `None` if it is gone. Only its owner and root may read it.
    pub fn cwd(&self, pid: u32) -> io::Result<Option<PathBuf>> {
        gone_is_none(fs::read_link(self.path(pid, "cwd")))
    }

    /// Whether this very process is there now, so that what was read before was read of it.
    fn is_there(&self, process: Identity) -> bool {
        matches!(self.stat(process.pid), Ok(Some(stat)) if self.is_same(process, &stat))
    }
}
