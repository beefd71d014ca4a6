use std::{io, path::Path, time::Duration};

use anyhow::{Result, anyhow};

use super::{place::UNREAD, queue::Queue, target::Target};
use crate::{
    model::{Body, GapReason, Record},
    next_step::NextStep as _,
    roster::Roster,
    sink::{Sink, Standing},
};

/// Bytes of memory that are kept from one batch to the next.
const BATCH_KEPT: usize = 8 << 10;
/// How long the reaper's next step waits for its record to be written, where that is not done at
/// once.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long the first record may take: after it, nothing waits.
const FIRST: Duration = Duration::from_millis(500);

/// Writes records as NDJSON, off the path of whoever makes them: they are handed to a thread, up to a
/// bound. What does not fit is left out, counted, and told of by a `gap` record
/// ([`GapReason::NotWritten`]) once everything before it is written.
#[derive(Debug)]
pub struct EvidenceWriter {
    queue: Queue,
    /// Lines of the batch that is not handed over yet, and how many.
    batch: Vec<u8>,
    records: u64,
    /// `seq` of the last of them.
    last: u64,
    /// Records that were left out since the last gap; while there are any, everything is.
    left_out: u64,
    begun: bool,
}

impl EvidenceWriter {
    /// Appends to the evidence at `path`, or creates it, readable by its owner only. A FIFO or a
    /// device is written to as it is. SIGHUP has it opened anew ([`Sink::reopen`]), and that it was
    /// moved, removed or truncated is noticed.
    ///
    /// # Errors
    /// If it cannot be opened, is not evidence, is written by another process, or could be exchanged
    /// by another user.
    pub fn append(path: &Path) -> Result<Self> {
        Target::at(path).and_then(Self::to)
    }

    /// Keeps evidence in a folder, at most `max_bytes` of it: in files one after the other, each
    /// understood alone. Ended ones are compressed, and the oldest are dropped.
    ///
    /// # Errors
    /// If it cannot be made or written to, is written to by another process, or could be exchanged by
    /// another user.
    pub fn in_folder(folder: &Path, max_bytes: u64) -> Result<Self> {
        Target::in_folder(folder, max_bytes).and_then(Self::to)
    }

    /// Creates a new file, readable by its owner only.
    ///
    /// # Errors
    /// If it exists already (a recording is never overwritten) or cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        Target::new_file(path).and_then(Self::to)
    }

    /// Writes to standard output. That its reader went away comes as the bare
    /// [`io::ErrorKind::BrokenPipe`], for the recording to end on.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn stdout() -> Result<Self> {
        Self::to(Target::stdout())
    }

    fn to(target: Target) -> Result<Self> {
        let queue = Queue::new(target)?;
        Ok(Self { queue, batch: Vec::new(), records: 0, last: 0, left_out: 0, begun: false })
    }

    /// Waits until everything is written, but no longer than `patience`.
    ///
    /// # Errors
    /// If it is not: what was written until then is whole.
    pub fn finish(&mut self, patience: Duration) -> Result<()> {
        self.hand_over(true);
        if self.queue.wait(patience) && self.left_out == 0 {
            return Ok(());
        }
        if self.queue.is_closed() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Err(self.failure())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// If it did not get there: the system had taken what it could not keep.
    pub fn sync(&mut self) -> Result<()> {
        self.finish(Duration::from_secs(10))?;
        self.queue.sync().map_err(|error| {
            anyhow::Error::from(error)
                .context(format!("cannot bring {} to the disk", self.queue.name()))
        })
    }

    fn failure(&self) -> anyhow::Error {
        let (_, trouble, _) = self.queue.standing();
        let why = trouble.unwrap_or_else(|| "it takes nothing more".to_owned());
        let name = self.queue.name();
        anyhow!("{why}")
            .context(format!("cannot write to {name}: what was written before is whole"))
            .next_step("make room on that file system, or name a file on another")
    }

    fn hand_over(&mut self, wake: bool) {
        // Nothing new is no lock.
        if self.batch.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.records);
        if !self.queue.push(&mut self.batch, self.last, wake) {
            self.left_out += records;
        }
        self.batch.clear();
        self.batch.shrink_to(BATCH_KEPT);
    }
}

impl Sink for EvidenceWriter {
    fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
        if let Body::Start(_) = &record.body {
            self.queue.begin_with(record.clone());
        }
        if let Body::Gap(gap) = &record.body
            && gap.reason == GapReason::NotWritten
        {
            self.left_out = self.left_out.saturating_sub(gap.lost);
        }
        if self.left_out > 0 {
            self.left_out += 1;
            return Ok(());
        }
        // Straight into the batch, whose memory is used again.
        serde_json::to_writer(&mut self.batch, record)?;
        self.batch.push(b'\n');
        self.records += 1;
        self.last = record.seq;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.begun {
            self.begun = true;
            self.hand_over(false);
            // Where not even the first record can be written there is nothing to begin with.
            if !self.queue.commit(FIRST) && self.queue.standing().1.is_some_and(|it| it != UNREAD) {
                if self.queue.is_closed() {
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
                }
                return Err(self.failure());
            }
            return Ok(());
        }
        self.hand_over(true);
        Ok(())
    }

    fn commit(&mut self) -> Result<bool> {
        self.hand_over(false);
        Ok(self.left_out == 0 && self.queue.commit(PATIENCE))
    }

    fn reopen(&mut self) {
        self.queue.reopen();
    }

    fn has_news(&self) -> bool {
        self.queue.has_news()
    }

    fn standing(&mut self) -> Result<Standing> {
        if self.queue.is_closed() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        let (waiting, trouble, notes) = self.queue.standing();
        let missed = if waiting == 0 { self.left_out } else { 0 };
        let behind = self.left_out > 0 || (waiting > 0 && trouble.is_some());
        let trouble =
            trouble.map(|why| format!("{} cannot be written to: {why}", self.queue.name()));
        Ok(Standing { behind, waiting: waiting > 0, missed, trouble, notes })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command, time::Instant};

    use super::*;
    use crate::{
        evidence::{Reader, queue::QUEUE_MAX, samples},
        model::{Gap, Tick},
        next_step::next_steps,
    };

    fn start() -> Record {
        samples::record(1, 1, Body::Start(Box::new(samples::start())))
    }

    fn tick(seq: u64) -> Record {
        samples::record(seq, seq, Body::Tick(Tick::default()))
    }

    fn put(writer: &mut EvidenceWriter, record: &Record) {
        writer.record(record, &Roster::blank()).unwrap();
        writer.flush().unwrap();
    }

    fn read(path: &Path) -> Vec<Record> {
        let reader = Reader::open(path).unwrap();
        reader.map(|record| record.unwrap_or_else(|defect| panic!("{defect}"))).collect()
    }

    fn seqs(path: &Path) -> Vec<u64> {
        read(path).iter().map(|record| record.seq).collect()
    }

    fn done(writer: &mut EvidenceWriter) {
        writer.finish(Duration::from_secs(10)).unwrap();
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.ndjson");
        (folder, path)
    }

    #[test]
    fn a_file_is_private_and_appended_to() {
        let (_folder, path) = folder();
        let mut writer = EvidenceWriter::append(&path).unwrap();
        put(&mut writer, &start());
        put(&mut writer, &tick(2));
        assert!(writer.commit().unwrap());
        assert_eq!(seqs(&path), [1, 2]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = format!("{:#}", EvidenceWriter::append(&path).unwrap_err());
        assert!(error.contains("another slashtrace writes it: pid "), "{error}");
        drop(writer);
        let mut writer = appended(&path);
        put(&mut writer, &start());
        done(&mut writer);
        assert_eq!(seqs(&path), [1, 2, 1]);
        let error = format!("{:#}", EvidenceWriter::create(&path).unwrap_err());
        assert!(error.contains("exists"), "{error}");
    }

    /// The lock goes with the thread of the one before, which ends in a moment.
    fn appended(path: &Path) -> EvidenceWriter {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match EvidenceWriter::append(path) {
                Ok(writer) => return writer,
                Err(error) => assert!(Instant::now() < until, "{error:#}"),
            }
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_behind() {
        let (_folder, path) = folder();
        let whole = crate::evidence::line(&start()).unwrap() + "\n";
        fs::write(&path, format!("{whole}{{\"v\":1,\"seq\":2,\"ti")).unwrap();
        let mut writer = EvidenceWriter::append(&path).unwrap();
        put(&mut writer, &start());
        put(&mut writer, &tick(2));
        done(&mut writer);
        assert_eq!(seqs(&path), [1, 1, 2]);
    }

    #[test]
    fn a_file_that_was_moved_or_truncated_is_begun_anew() {
        let (folder, path) = folder();
        let mut writer = EvidenceWriter::append(&path).unwrap();
        put(&mut writer, &start());
        put(&mut writer, &tick(2));
        done(&mut writer);
        let moved = folder.path().join("evidence.ndjson.1");
        fs::rename(&path, &moved).unwrap();
        writer.reopen();
        let until = Instant::now() + Duration::from_secs(10);
        while !path.exists() {
            assert!(Instant::now() < until);
        }
        put(&mut writer, &tick(3));
        done(&mut writer);
        assert_eq!((seqs(&moved), seqs(&path)), (vec![1, 2, 3], vec![2, 3]));
        let last = read(&moved).pop().unwrap();
        assert!(matches!(last.body, Body::Stop(stop) if stop.reason == "continued"));
        let Body::Start(begun) = &read(&path)[0].body else { panic!("no start") };
        assert!(begun.continued);
        assert_eq!(writer.standing().unwrap().notes.len(), 1);
        // copytruncate.
        fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        put(&mut writer, &tick(4));
        done(&mut writer);
        assert_eq!(seqs(&path), [3, 4]);
        assert!(!fs::read(&path).unwrap().contains(&0));
        let standing = writer.standing().unwrap();
        assert!(standing.notes[0].contains("was truncated"), "{standing:?}");
        // Removed, and nobody says so.
        fs::remove_file(&path).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !path.exists() {
            assert!(Instant::now() < until, "it was not noticed");
            std::thread::sleep(Duration::from_millis(20));
        }
        put(&mut writer, &tick(5));
        done(&mut writer);
        assert_eq!(seqs(&path), [4, 5]);
        let notes = writer.standing().unwrap().notes;
        assert!(notes[0].contains("was moved or removed"), "{notes:?}");
    }

    #[test]
    fn a_fifo_is_neither_waited_for_nor_outrun() {
        let (_folder, path) = folder();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut writer = EvidenceWriter::append(&path).unwrap();
        let began = Instant::now();
        put(&mut writer, &start());
        // More than is held.
        let many = QUEUE_MAX as u64 / 40;
        let roster = Roster::blank();
        for seq in 2..many {
            writer.record(&tick(seq), &roster).unwrap();
            if seq % 100 == 0 {
                writer.flush().unwrap();
            }
        }
        writer.flush().unwrap();
        assert!(!writer.commit().unwrap());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let standing = writer.standing().unwrap();
        assert!(standing.behind && standing.missed == 0, "{standing:?}");
        assert!(standing.trouble.unwrap().contains("nobody reads it"));
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || {
                Reader::new(io::BufReader::new(fs::File::open(path).unwrap()))
                    .map(|record| record.unwrap_or_else(|defect| panic!("{defect}")))
                    .collect::<Vec<_>>()
            })
        };
        let until = Instant::now() + Duration::from_secs(20);
        let missed = loop {
            let standing = writer.standing().unwrap();
            if standing.missed > 0 {
                break standing.missed;
            }
            assert!(Instant::now() < until, "{standing:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let gap = Gap { reason: GapReason::NotWritten, lost: missed, resynced: false, uid: None };
        put(&mut writer, &samples::record(many, many, Body::Gap(gap)));
        put(&mut writer, &tick(many + 1));
        assert!(!writer.standing().unwrap().behind);
        done(&mut writer);
        drop(writer);
        let records = reader.join().unwrap();
        assert_eq!(records.last().unwrap().seq, many + 1);
        assert_eq!(records.len() as u64 + missed, many + 1);
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_goes_on_when_there_is_room() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // A file size limit stands for the full disk; in a process of its own, since it is
        // process-wide and comes with a signal.
        const NAME: &str = "a_full_disk_leaves_whole_lines_and_goes_on_when_there_is_room";
        if std::env::var_os("SLASHTRACE_FSIZE_TEST").is_none() {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &format!("evidence::writer::tests::{NAME}")])
                .env("SLASHTRACE_FSIZE_TEST", "1")
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        // SAFETY: ignoring a signal touches no memory.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let (_folder, path) = folder();
        let mut writer = EvidenceWriter::append(&path).unwrap();
        put(&mut writer, &start());
        done(&mut writer);
        let maximum = getrlimit(Resource::Fsize).maximum;
        let first = fs::metadata(&path).unwrap().len();
        setrlimit(Resource::Fsize, Rlimit { current: Some(first + 250), maximum }).unwrap();
        for seq in 2..100 {
            put(&mut writer, &tick(seq));
        }
        assert!(writer.finish(Duration::from_secs(10)).is_err());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.len() as u64 > first, "{text}");
        let standing = writer.standing().unwrap();
        assert!(standing.behind && standing.trouble.is_some(), "{standing:?}");
        setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while writer.standing().unwrap().behind {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(seqs(&path), (1..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_even_begin_is_an_error_with_a_next_step() {
        let mut writer = EvidenceWriter::append(Path::new("/dev/full")).unwrap();
        writer.record(&start(), &Roster::blank()).unwrap();
        let error = writer.flush().unwrap_err();
        assert!(next_steps(&error)[0].starts_with("make room"), "{error:#}");
    }
}
