//! Where evidence goes to, one line after the other: a file, a FIFO, a device or stdout. What could
//! not be written is kept and tried again; a line that was written in part is taken back or finished.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
};

use super::{
    line,
    place::{self, Refusal},
    reader::CONTINUED,
    store::{self, Store},
};
use crate::{
    host::clock::{boottime_ns, wall_time},
    model::{Body, Record, Stop},
    next_step::NextStep as _,
};

/// How often it is looked whether the file is still where it was opened.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// Memory that is kept for the next lines, bytes.
const KEPT: usize = 8 << 10;
/// A write of this size to a pipe with room in it does not wait: a pipe is ready when a whole page is
/// free (pipe_poll, fs/pipe.c).
const PAGE: usize = 4 << 10;

#[derive(Debug)]
enum To {
    /// A path, opened again when it was moved, removed or truncated, and when that is asked for.
    Path(PathBuf),
    /// A segment of a folder, and the folder.
    Folder(PathBuf, Box<Store>),
    /// A new file that nobody else has to do with.
    New(PathBuf),
    Stdout,
}

/// Lines that are to be written, and where.
#[derive(Debug)]
pub(super) struct Target {
    to: To,
    /// None while it cannot be opened.
    file: Option<File>,
    regular: bool,
    /// What the file has to be as long as, bytes; of regular files.
    len: u64,
    /// Whether `start` has to be written before the next line: the file is empty, or its reader new.
    bare: bool,
    /// The recording's first record.
    start: Option<Record>,
    lines: Vec<u8>,
    /// What of `lines` was written.
    at: usize,
    /// `seq` of the last line.
    last: u64,
    looked: Instant,
    /// Whether the file was moved or removed, and none opened in its place yet.
    displaced: bool,
    /// Bytes of a segment that tell of earlier ones, and when it was begun.
    head: u64,
    begun: Instant,
    /// What people are to know.
    pub(super) notes: Vec<String>,
}

impl Target {
    /// A file to append to; see [`place::open`].
    pub(super) fn at(path: &Path) -> Result<Self> {
        let target = Self::of(To::Path(path.to_owned()), None);
        match place::open(path) {
            Ok(place) => Ok(target.with(place)?),
            Err(error) if is_unread(&error) => Ok(target),
            Err(error) => Err(error
                .context(format!("cannot write evidence to {}", path.display()))
                .next_step("end the other one, or name another file")),
        }
    }

    /// A new segment of a folder that keeps at most so many bytes.
    pub(super) fn in_folder(folder: &Path, max_bytes: u64) -> Result<Self> {
        let mut store = Store::open(folder, max_bytes)?;
        let path = store.next(wall_time(boottime_ns()));
        let place = place::open(&path)
            .with_context(|| format!("cannot keep evidence in {}", folder.display()))?;
        Self::of(To::Folder(path, Box::new(store)), None).with(place)
    }

    /// A new file, in a folder that may be anybody's.
    pub(super) fn new_file(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(path);
        // O_EXCL also refuses a symbolic link that somebody else put there for root.
        let file = file
            .with_context(|| format!("cannot create {}", path.display()))
            .next_step("name a new file, in a folder that exists and that you may write to")?;
        let mut target = Self::of(To::New(path.to_owned()), Some(file));
        target.regular = true;
        Ok(target)
    }

    pub(super) fn stdout() -> Self {
        // Its own descriptor: whoever shares stdout is not to wait for a lock of ours.
        let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        Self::of(To::Stdout, file.ok())
    }

    fn of(to: To, file: Option<File>) -> Self {
        Self {
            to,
            file,
            regular: false,
            len: 0,
            bare: false,
            start: None,
            lines: Vec::new(),
            at: 0,
            last: 0,
            looked: Instant::now(),
            displaced: false,
            head: 0,
            begun: Instant::now(),
            notes: Vec::new(),
        }
    }

    /// The path that can be opened again.
    fn path(&self) -> Option<&Path> {
        match &self.to {
            To::Path(path) | To::Folder(path, _) => Some(path),
            To::New(_) | To::Stdout => None,
        }
    }

    fn with(mut self, place: place::Place) -> Result<Self> {
        self.take(place)?;
        // The first line is `start` anyway.
        self.bare = false;
        Ok(self)
    }

    fn take(&mut self, place: place::Place) -> Result<()> {
        if place.torn {
            // Whatever follows has to begin on a line of its own.
            (&place.file).write_all(b"\n")?;
        }
        self.len = if place.regular { place.file.metadata()?.len() } else { 0 };
        self.regular = place.regular;
        self.file = Some(place.file);
        self.bare = true;
        self.back_to_line();
        Ok(())
    }

    /// What it is called.
    pub(super) fn name(&self) -> String {
        match &self.to {
            To::Path(path) | To::New(path) => path.display().to_string(),
            To::Folder(_, store) => store.folder().display().to_string(),
            To::Stdout => "standard output".to_owned(),
        }
    }

    /// The recording's first record, for a file that has to be begun anew.
    pub(super) fn begin_with(&mut self, start: Record) {
        // Until then somebody may read the files of before.
        if let To::Folder(path, store) = &mut self.to {
            self.notes.extend(store.tidy(path, 0));
        }
        self.start = Some(start);
    }

    /// Takes lines to be written, the last of which has this `seq`.
    pub(super) fn push(&mut self, lines: &mut Vec<u8>, last: u64) {
        self.last = last;
        if self.left() == 0 {
            self.lines.clear();
            self.lines.shrink_to(KEPT);
            self.at = 0;
            std::mem::swap(&mut self.lines, lines);
        } else {
            // A reader that always leaves something is not to make what was written pile up.
            let line = self.lines[..self.at].iter().rposition(|&byte| byte == b'\n');
            let written = line.map_or(0, |end| end + 1);
            if written > KEPT {
                self.lines.drain(..written);
                self.at -= written;
            }
            self.lines.append(lines);
        }
    }

    /// Bytes that are not written yet.
    pub(super) fn left(&self) -> usize {
        self.lines.len() - self.at
    }

    /// Whether writing what is left would not wait for whoever reads it. A disk may be slow all the
    /// same.
    pub(super) fn is_ready(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let kind = fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile) => true,
            Ok(FileType::Fifo) => self.left() <= PAGE && self.has_room(Duration::ZERO),
            _ => false,
        }
    }

    /// Waits until a FIFO or a device has room.
    pub(super) fn has_room(&self, wait: Duration) -> bool {
        let Some(file) = &self.file else { return false };
        let timeout = Timespec::try_from(wait).ok();
        let mut fds = [PollFd::new(file, PollFlags::OUT)];
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// If not all of it could be written. The rest is kept.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let begins = self.bare && self.start.is_some() && self.file.is_some();
        if self.left() == 0 && !begins {
            return Ok(());
        }
        if self.file.is_none() {
            self.open()?;
        }
        self.notice_truncation()?;
        if std::mem::take(&mut self.bare) {
            self.insert_start();
        }
        self.write_lines()
    }

    /// The same, and begins the next file of a folder where it is time for that, which takes a while.
    pub(super) fn write_and_turn(&mut self) -> io::Result<()> {
        self.write()?;
        if self.begin_segment() { self.write_lines() } else { Ok(()) }
    }

    fn write_lines(&mut self) -> io::Result<()> {
        while self.left() > 0 {
            let Some(mut file) = self.file.as_ref() else { break };
            match file.write(&self.lines[self.at..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.at += written;
                    self.len += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.undo(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A line that was written in part: it is taken back from a file; a reader that went away will
    /// not read the rest, but whoever comes next needs whole lines.
    fn undo(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            if self.path().is_some() {
                self.file = None;
            }
            self.back_to_line();
        } else if self.regular {
            let part = self.part_of_line() as u64;
            // Who cut it meanwhile is not to find it longer.
            let whole =
                |file: &&File| file.metadata().is_ok_and(|now| part > 0 && now.len() == self.len);
            let cut = self.file.as_ref().filter(whole).map(|file| file.set_len(self.len - part));
            if cut.is_some_and(|cut| cut.is_ok()) {
                self.len -= part;
                self.back_to_line();
            }
        }
    }

    /// Bytes of a line that were written without its end.
    fn part_of_line(&self) -> usize {
        let written = &self.lines[..self.at];
        written.iter().rev().take_while(|byte| **byte != b'\n').count()
    }

    fn back_to_line(&mut self) {
        self.at -= self.part_of_line();
    }

    /// A file that became shorter was copied and truncated by whoever rotates logs.
    fn notice_truncation(&mut self) -> io::Result<()> {
        let (true, Some(_), Some(file)) = (self.regular, self.path(), &self.file) else {
            return Ok(());
        };
        let len = file.metadata()?.len();
        if len < self.len {
            self.notes.push(format!("{} was truncated; it begins anew", self.name()));
            self.back_to_line();
            self.bare = true;
        }
        self.len = len;
        Ok(())
    }

    /// Puts `start` before what is left, unless it begins with one.
    fn insert_start(&mut self) {
        let next = &self.lines[self.at..];
        let seq = seq_of(next).unwrap_or(self.last + 1);
        let Some(mut start) = self.start.clone() else { return };
        if seq <= 1 {
            return;
        }
        start.seq = seq - 1;
        if let Body::Start(start) = &mut start.body {
            (start.continued, start.resumed) = (true, false);
        }
        let Ok(mut head) = line(&start) else { return };
        head.push('\n');
        self.lines.splice(self.at..self.at, head.into_bytes());
    }

    /// Where the segment is large or old: begins the next one, which is understood without it.
    /// Whether it did.
    fn begin_segment(&mut self) -> bool {
        let grown = self.len.saturating_sub(self.head);
        let To::Folder(path, store) = &mut self.to else { return false };
        let due = grown >= store.segment_bytes() || self.begun.elapsed() >= store::AGE;
        if !due || self.start.is_none() || self.file.is_none() {
            return false;
        }
        // Not again with each line where it fails.
        self.head = self.len;
        self.begun = Instant::now();
        let known = store::condensed(path);
        let next = store.next(wall_time(boottime_ns()));
        let place = match place::open(&next) {
            Ok(place) => place,
            Err(error) => {
                let folder = store.folder().display();
                self.notes.push(format!("no new file in {folder}: {error:#}"));
                return false;
            }
        };
        let head = match known {
            Ok(known) => self.head(known.records),
            Err(error) => {
                let path = next.display();
                self.notes
                    .push(format!("{path} does not say what is known from before: {error:#}"));
                self.head(Vec::new())
            }
        };
        let head = head.unwrap_or_default();
        self.close();
        let To::Folder(path, store) = &mut self.to else { return false };
        path.clone_from(&next);
        self.notes.extend(store.tidy(&next, head.len() as u64));
        if let Err(error) = self.take(place) {
            self.notes.push(format!("{} cannot be written to: {error:#}", next.display()));
            return false;
        }
        self.bare = false;
        self.head = head.len() as u64;
        (self.lines, self.at) = (head, 0);
        true
    }

    /// The lines that begin a segment.
    fn head(&self, known: Vec<Record>) -> Result<Vec<u8>> {
        let Some(start) = &self.start else { return Ok(Vec::new()) };
        let mut start = Record { seq: self.last, ..start.clone() };
        if let Body::Start(start) = &mut start.body {
            (start.continued, start.resumed) = (true, false);
        }
        let mut lines = Vec::new();
        let boottime_ns = boottime_ns();
        let (v, seq, time) = (start.v, start.seq, wall_time(boottime_ns));
        let checkpoints = store::checkpoints(known)?.into_iter().map(|checkpoint| Record {
            v,
            seq,
            time,
            boottime_ns,
            body: Body::Checkpoint(Box::new(checkpoint)),
        });
        for record in std::iter::once(start).chain(checkpoints) {
            lines.extend(line(&record)?.into_bytes());
            lines.push(b'\n');
        }
        Ok(lines)
    }

    fn open(&mut self) -> io::Result<()> {
        let Some(path) = self.path() else { return Err(io::ErrorKind::NotFound.into()) };
        let place = place::open(path).map_err(|error| io::Error::other(format!("{error:#}")))?;
        self.take(place).map_err(io::Error::other)
    }

    /// Opens the path again: whoever rotates logs has put another file there, or nothing. Where that
    /// cannot be done, what is open is written to as before, unless it was removed.
    pub(super) fn reopen(&mut self) {
        let Some(path) = self.path().map(Path::to_owned) else { return };
        if self.is_in_place() {
            return;
        }
        let first = !std::mem::replace(&mut self.displaced, true);
        match place::open(&path) {
            Ok(place) => {
                self.close();
                self.displaced = false;
                let taken = self.take(place);
                self.notes.push(match taken {
                    Ok(()) => format!("{} was opened anew", self.name()),
                    Err(error) => format!("{} cannot be written to: {error:#}", self.name()),
                });
            }
            Err(error) => {
                let removed = |file: &File| file.metadata().is_ok_and(|it| it.nlink() == 0);
                if self.file.as_ref().is_some_and(removed) {
                    // What is written there is gone with it.
                    self.file = None;
                    self.back_to_line();
                }
                if first && !is_unread(&error) {
                    let name = self.name();
                    self.notes.push(format!("{name} cannot be opened anew: {error:#}"));
                }
            }
        }
    }

    /// Ends a file that goes on in another one: it is whole.
    fn close(&mut self) {
        let seq = seq_of(&self.lines[self.at..]).unwrap_or(self.last + 1);
        let (true, Some(start), Some(file)) = (self.regular, &self.start, &self.file) else {
            return;
        };
        // A line that is not whole has to be finished first, and cannot be.
        if self.part_of_line() > 0 {
            return;
        }
        let boottime_ns = boottime_ns();
        let reason = CONTINUED.to_owned();
        let stop = Stop { reason, counters: BTreeMap::new(), complete: true };
        let (v, time) = (start.v, wall_time(boottime_ns));
        let stop = Record { v, seq, time, boottime_ns, body: Body::Stop(stop) };
        if let Ok(line) = line(&stop) {
            // Without it, the file looks like one whose writer was killed.
            let _ = { file }.write_all((line + "\n").as_bytes());
        }
    }

    /// Looks, every few seconds, whether the file was moved or removed; then it is opened anew.
    pub(super) fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if self.regular && self.file.is_some() && !self.is_in_place() {
            if !self.displaced {
                self.notes.push(format!("{} was moved or removed", self.name()));
            }
            self.reopen();
        }
    }

    /// Whether what is open is what has the name; yes of what has none.
    fn is_in_place(&self) -> bool {
        let (Some(path), Some(file)) = (self.path(), &self.file) else {
            return self.path().is_none();
        };
        let of = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (path.symlink_metadata(), file.metadata()) {
            (Ok(there), Ok(open)) => of(there) == of(open),
            (Err(_), _) => false,
            (Ok(_), Err(_)) => true,
        }
    }

    /// Waits until it is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if !matches!(self.to, To::Stdout) => match file.sync_all() {
                // fsync(2): a pipe or device has nothing to keep.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                done => done,
            },
            _ => Ok(()),
        }
    }

    /// Whether it is stdout, whose reader ends the recording by going away.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self.to, To::Stdout)
    }
}

fn is_unread(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Refusal::NoReader))
}

/// `seq` of the line that begins here, as [`line`] writes it.
fn seq_of(lines: &[u8]) -> Option<u64> {
    let head = std::str::from_utf8(&lines[..lines.len().min(64)]).ok();
    // The head may end within a character; then it is no line of ours.
    let digits = head?.split_once("\"seq\":")?.1.split(',').next()?;
    digits.parse().ok()
}
