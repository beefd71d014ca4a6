use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{model::Record, next_step::NextStep as _, roster::Roster, sink::Sink};

/// Bytes of memory that are kept from one batch to the next.
const BATCH_KEPT: usize = 64 << 10;

/// Writes records as NDJSON, whole lines only: a batch is written in one go, and if that fails
/// half-way the file is cut back to the last whole batch.
#[derive(Debug)]
pub struct EvidenceWriter {
    target: Target,
    /// Lines of the batch that is not written yet.
    batch: Vec<u8>,
}

#[derive(Debug)]
enum Target {
    File { file: File, path: PathBuf, written: u64 },
    Stdout,
}

impl EvidenceWriter {
    /// Creates `path`, readable by its owner only. A FIFO or a device is written to as it is.
    ///
    /// # Errors
    /// If it exists already (evidence is never overwritten) or cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let there = path.symlink_metadata().map(|metadata| metadata.file_type());
        if there.as_ref().is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
            let file = OpenOptions::new().write(true).open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            return Ok(Self::to(file, path));
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
            |error| {
                let (error, path) = (anyhow::Error::new(error), path.display());
                // O_EXCL also refuses a symbolic link that somebody else put there for root.
                if there.is_ok() {
                    error
                        .context(format!("{path} exists, and evidence is never overwritten"))
                        .next_step("name another file, or move that one away")
                } else {
                    error
                        .context(format!("cannot create {path}"))
                        .next_step("name a folder that exists and that you may write to")
                }
            },
        )?;
        Ok(Self::to(file, path))
    }

    fn to(file: File, path: &Path) -> Self {
        Self { target: Target::File { file, path: path.to_owned(), written: 0 }, batch: Vec::new() }
    }

    /// Waits until a file is on the disk.
    ///
    /// # Errors
    /// If it did not get there: the system had taken what it could not keep.
    pub fn sync(&self) -> Result<()> {
        match &self.target {
            Target::File { file, path, .. } => match file.sync_all() {
                // fsync(2): a pipe or device has nothing to keep.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                done => {
                    done.with_context(|| format!("cannot bring {} to the disk", path.display()))
                }
            },
            Target::Stdout => Ok(()),
        }
    }

    /// Writes to standard output. That its reader went away comes as the bare
    /// [`io::ErrorKind::BrokenPipe`], for the recording to end on.
    pub fn stdout() -> Self {
        Self { target: Target::Stdout, batch: Vec::new() }
    }
}

impl Sink for EvidenceWriter {
    fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
        // Straight into the batch, whose memory is used again.
        serde_json::to_writer(&mut self.batch, record)?;
        self.batch.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        // Nothing new is no system call.
        if self.batch.is_empty() {
            return Ok(());
        }
        let result = match &mut self.target {
            Target::File { file, path, written } => write_whole(file, *written, &self.batch)
                .map(|()| *written += self.batch.len() as u64)
                .with_context(|| {
                    format!("cannot write to {}: what was written before is whole", path.display())
                })
                .next_step("make room on that file system, or name a file on another"),
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                match stdout.write_all(&self.batch).and_then(|()| stdout.flush()) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
                    other => other.context("cannot write evidence to standard output"),
                }
            }
        };
        self.batch.clear();
        self.batch.shrink_to(BATCH_KEPT);
        result
    }
}

/// Appends `batch`, or leaves the file as it was.
fn write_whole(file: &mut File, written: u64, batch: &[u8]) -> io::Result<()> {
    file.write_all(batch).inspect_err(|_| {
        // Devices cannot be cut; then there is nothing to keep whole either.
        drop(file.set_len(written));
        drop(file.seek(io::SeekFrom::Start(written)));
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        model::{Body, Tick},
        next_step::next_steps,
    };

    fn tick(seq: u64) -> Record {
        let body = Body::Tick(Tick::default());
        Record { v: 1, seq, time: Timestamp::UNIX_EPOCH, boottime_ns: seq, body }
    }

    #[test]
    fn a_file_is_private_and_never_overwritten() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence.ndjson");
        let mut writer = EvidenceWriter::create(&path).unwrap();
        writer.record(&tick(1), &Roster::blank()).unwrap();
        writer.record(&tick(2), &Roster::blank()).unwrap();
        writer.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = format!("{:#}", EvidenceWriter::create(&path).unwrap_err());
        assert!(error.contains("never overwritten"), "{error}");
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // A file size limit stands for the full disk; in a process of its own, since it is
        // process-wide and comes with a signal.
        if std::env::var_os("SLASHTRACE_FSIZE_TEST").is_none() {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "evidence::writer::tests::a_full_disk_leaves_whole_lines"])
                .env("SLASHTRACE_FSIZE_TEST", "1")
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        // SAFETY: ignoring a signal touches no memory.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let limit = Rlimit { current: Some(300), maximum: getrlimit(Resource::Fsize).maximum };
        setrlimit(Resource::Fsize, limit).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence.ndjson");
        let mut writer = EvidenceWriter::create(&path).unwrap();
        let failed = (1..100).find(|seq| {
            writer.record(&tick(*seq), &Roster::blank()).unwrap();
            writer.flush().is_err()
        });
        assert!(failed.is_some());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.len() <= 300);
        assert_eq!(text.lines().count() as u64, failed.unwrap() - 1);
    }

    #[test]
    fn a_full_device_is_an_error_with_a_next_step() {
        let mut writer = EvidenceWriter::create(Path::new("/dev/full")).unwrap();
        writer.record(&tick(1), &Roster::blank()).unwrap();
        let error = writer.flush().unwrap_err();
        assert!(next_steps(&error)[0].starts_with("make room"), "{error:#}");
    }
}
