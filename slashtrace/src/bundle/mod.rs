//! The folder that `slashtrace record` leaves behind: the evidence, and reports of it for people, and
//! all of it as one archive to attach to an issue.
//! May touch: that folder; `report` for what stands in the files. What is written has passed
//! `redact`.
//!
//! The evidence comes first: it is `evidence.ndjson.part` while it is recorded, and whatever fails
//! behind that, a whole recording stays under one of its names. Nothing is ever overwritten.

mod environment;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    next_step::NextStep as _,
    report::{digest::Report, html, markdown},
};

/// The evidence while it is recorded, when it is whole, and in the end.
const PART: &str = "evidence.ndjson.part";
const WHOLE: &str = "evidence.ndjson";
const EVIDENCE: &str = "evidence.ndjson.gz";
/// All of it, to be attached.
const ARCHIVE: &str = "slashtrace-report.tar.gz";

const README: &str = "\
What slashtrace recorded of worker processes that leak.

report.md           for people: paste it into an issue (it fits)
report.html         the same, drawn: open it in a browser; it needs no network
evidence.ndjson.gz  every observation and finding, one JSON record a line
environment.json    what it was recorded on, with what
slashtrace-report.tar.gz  all of these in one file, to be attached

To judge the evidence again, on any machine and without root:

    slashtrace replay evidence.ndjson.gz
    slashtrace report evidence.ndjson.gz

What never gets in: environments, names of people and machines, values in argv other than session
and model. Look through report.md before you send it all the same.
";

/// The folder of one recording.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// It was not there before.
    made: bool,
    owner: Option<Owner>,
}

/// Who called `sudo`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// What was written.
#[derive(Debug)]
pub struct Bundle {
    /// The evidence.
    pub evidence: PathBuf,
    /// The report to be pasted.
    pub markdown: PathBuf,
    /// The report to be looked at.
    pub html: PathBuf,
    /// All of it.
    pub archive: PathBuf,
}

impl Folder {
    /// Makes the folder, or checks that it is empty.
    ///
    /// # Errors
    /// If it is not empty, or cannot be made.
    pub fn prepare(path: &Path) -> Result<Self> {
        let made = match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let error = anyhow!(
                        "{} is not empty, and recordings are never overwritten",
                        path.display()
                    );
                    return Err(error.next_step("name another folder with -o"));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(path)
                    .with_context(|| format!("cannot make the folder {}", path.display()))
                    .next_step("name one with -o that you may make")?;
                true
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot use the folder {}", path.display()))
                    .next_step("name a new folder with -o");
            }
        };
        Ok(Self { path: path.to_owned(), made, owner: Owner::behind_sudo() })
    }

    /// Where the evidence is written meanwhile.
    pub fn part(&self) -> PathBuf {
        self.path.join(PART)
    }

    /// Takes the folder away if nothing was recorded; says where what was recorded is otherwise.
    pub fn abandon(&self) -> Option<PathBuf> {
        let part = self.part();
        if fs::symlink_metadata(&part).is_ok_and(|file| file.is_file() && file.len() == 0) {
            let _ = fs::remove_file(&part);
        }
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
        if !part.exists() {
            return None;
        }
        // It may be all that there is.
        let _ = self.give(&part);
        Some(part)
    }

    /// The recording ended in order and is on the disk: writes everything else.
    ///
    /// # Errors
    /// If a file cannot be written: says where the evidence is.
    pub fn finish(&self, report: &Report, zone: &TimeZone) -> Result<Bundle> {
        let whole = self.path.join(WHOLE);
        fs::rename(self.part(), &whole)
            .with_context(|| format!("cannot rename {}", self.part().display()))?;
        let written = self.write_all(report, zone, &whole);
        let kept = if whole.exists() { whole } else { self.path.join(EVIDENCE) };
        if written.is_err() {
            // It may be all that there is.
            let _ = self.give(&kept);
        }
        written
            .context("the recording is whole, its report is not")
            .next_step(format!("make room, then `slashtrace report {}`", kept.display()))
    }

    fn write_all(&self, report: &Report, zone: &TimeZone, whole: &Path) -> Result<Bundle> {
        let evidence = self.write(EVIDENCE, |out| {
            let mut gz = GzEncoder::new(out, Compression::default());
            let mut input = BufReader::new(own(whole)?);
            io::copy(&mut input, &mut gz)?;
            gz.finish()?;
            Ok(())
        })?;
        fs::remove_file(whole).with_context(|| format!("cannot remove {}", whole.display()))?;
        let markdown = self.write("report.md", |out| {
            Ok(out.write_all(markdown::render(report, zone).as_bytes())?)
        })?;
        let html = self.write("report.html", |out| html::render(report, out))?;
        let environment = self.write("environment.json", |out| {
            serde_json::to_writer_pretty(&mut *out, &environment::of(report))?;
            Ok(out.write_all(b"\n")?)
        })?;
        let readme = self.write("README.txt", |out| Ok(out.write_all(README.as_bytes())?))?;
        let files = [&readme, &markdown, &html, &evidence, &environment];
        let archive =
            self.write(ARCHIVE, |out| archive(out, &files.map(PathBuf::as_path), report))?;
        if self.made {
            self.give(&self.path)?;
        }
        Ok(Bundle { evidence, markdown, html, archive })
    }

    /// Writes a file, private and whole or not at all.
    fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.path.join(name);
        let written = (|| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut out = BufWriter::new(file);
            fill(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            if let Some(owner) = self.owner {
                fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            anyhow::Ok(file.sync_all()?)
        })();
        if let Err(error) = written {
            // Half a file would look like a whole one.
            let exists = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
            if !exists {
                let _ = fs::remove_file(&path);
            }
            return Err(error.context(format!("cannot write {}", path.display())));
        }
        Ok(path)
    }

    /// Gives what was written as root to whoever called `sudo`.
    fn give(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        // Never what a symbolic link leads to.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .and_then(|file| fchown(&file, Some(owner.uid), Some(owner.gid)))
            .with_context(|| format!("cannot give {} to you", path.display()))
    }
}

impl Owner {
    fn behind_sudo() -> Option<Self> {
        let id = |name: &str| std::env::var(name).ok()?.parse().ok();
        let owner = Self { uid: id("SUDO_UID")?, gid: id("SUDO_GID")? };
        (rustix::process::geteuid().is_root() && owner.uid != 0).then_some(owner)
    }
}

/// Writes a file that may be there already, and gives it to whoever called `sudo`.
///
/// # Errors
/// If it cannot be written; a symbolic link is not followed.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(bytes)?;
        match Owner::behind_sudo() {
            Some(owner) => fchown(&file, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        }
    })();
    written
        .with_context(|| format!("cannot write {}", path.display()))
        .next_step("name a file that you may write to")
}

/// A file that this program wrote, and nobody put in its place: what is packed into a bundle is given
/// away.
fn own(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    let ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        bail!("{} is not what was recorded: somebody put it there", path.display());
    }
    Ok(file)
}

/// A compressed tar of files, in a folder of its own, with nobody's name in it.
fn archive(out: &mut dyn Write, files: &[&Path], report: &Report) -> Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    let mtime = report.recording.ended.map_or(0, Timestamp::as_second);
    for path in files {
        let name = path.file_name().context("a file has a name")?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let size = file.metadata()?.len();
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        tar.append_data(&mut header, Path::new("slashtrace-report").join(name), file.take(size))?;
    }
    tar.into_inner()?.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests;
