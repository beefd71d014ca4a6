//! Evidence in a folder: segments of NDJSON, one after the other. Ended ones are compressed, and the
//! oldest are dropped when there is more than was asked for. Each begins with `start` and what earlier
//! ones leave known, so each is understood alone.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use jiff::Timestamp;
use rustix::process::geteuid;

use super::{Reader, line, place};
use crate::{
    model::{Body, Checkpoint, Record, Start},
    next_step::NextStep as _,
    roster::{
        Roster,
        condense::{Condenser, flat},
    },
};

/// A folder has so many segments when it is full.
const SEGMENTS: u64 = 16;
/// A segment is ended after this long even if it is small.
pub(super) const AGE: Duration = Duration::from_hours(24);
/// Bytes of one line of a checkpoint, about.
const LINE: usize = 1 << 20;
/// What ended segments, and those that are compressed, end with.
const PLAIN: &str = ".ndjson";
const PACKED: &str = ".ndjson.gz";
/// What is locked while segments are written.
const LOCK: &str = "lock";
const FORM: &str = "%Y%m%dT%H%M%SZ";

/// A file of the folder.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Segment {
    number: u64,
    /// When it was begun, `20261127T014510Z`.
    began: String,
    packed: bool,
    path: PathBuf,
}

impl Segment {
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, packed) = match (name.strip_suffix(PACKED), name.strip_suffix(PLAIN)) {
            (Some(stem), _) => (stem, true),
            (None, stem) => (stem?, false),
        };
        let (number, began) = stem.split_once('-')?;
        let digits =
            (6..=12).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| number.parse().ok())??;
        let began = (began.len() == 16).then(|| began.to_owned())?;
        Some(Self { number, began, packed, path })
    }

    fn len(&self) -> u64 {
        self.path.symlink_metadata().map_or(0, |it| it.len())
    }
}

/// The segments of a folder, the oldest first.
fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let paths = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut all: Vec<Segment> = paths.filter_map(Segment::of).collect();
    // Who was ended between the two steps of compressing left both: the packed one is whole.
    all.sort_by_key(|it| (it.number, !it.packed));
    all.dedup_by_key(|it| it.number);
    Ok(all)
}

/// A folder that evidence is written to.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    max_bytes: u64,
    number: u64,
    /// Nobody else writes here as long as it is open.
    _lock: File,
    packing: Option<JoinHandle<()>>,
    /// Whether people know that old segments are dropped.
    told: bool,
}

impl Store {
    /// Opens a folder, and makes it if it is not there (0700).
    ///
    /// # Errors
    /// If it cannot be made, another slashtrace writes there, or others could exchange what is in it.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> Result<Self> {
        let cannot = || format!("cannot keep evidence in {}", folder.display());
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error)
                    .with_context(cannot)
                    .next_step("name a folder in one that exists and that you may write to");
            }
            _ => {}
        }
        let own = folder.metadata().with_context(cannot)?;
        if own.uid() != geteuid().as_raw() || own.mode() & 0o022 != 0 {
            let what = format!("others may put files into {}", folder.display());
            return Err(anyhow!(what)).with_context(cannot).next_step(
                "name a folder that belongs to the user who runs this, and that only they may write to",
            );
        }
        let place = place::open(&folder.join(LOCK)).map_err(|error| {
            error.context(cannot()).next_step("end the other one, or name another folder")
        })?;
        let last = segments(folder).with_context(cannot)?.pop();
        Ok(Self {
            folder: folder.to_owned(),
            max_bytes,
            number: last.map_or(0, |last| last.number),
            _lock: place.file,
            packing: None,
            told: false,
        })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the next segment.
    pub(super) fn next(&mut self, now: Timestamp) -> PathBuf {
        self.number += 1;
        self.folder.join(format!("{:06}-{}{PLAIN}", self.number, now.strftime(FORM)))
    }

    /// Bytes after which a segment is ended.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.max_bytes / SEGMENTS
    }

    /// Drops the oldest segments, and has the ended ones compressed. What people are to know.
    /// `head` bytes of the current one tell of earlier ones.
    pub(super) fn tidy(&mut self, current: &Path, head: u64) -> Option<String> {
        let ended = || {
            let all = segments(&self.folder).unwrap_or_default();
            all.into_iter().filter(|it| it.path != current).collect::<Vec<_>>()
        };
        let mut kept: VecDeque<Segment> = ended().into();
        // Room for the one that is being written.
        let bound = self.max_bytes.saturating_sub(self.segment_bytes().saturating_add(head));
        let mut bytes: u64 = kept.iter().map(Segment::len).sum();
        let mut dropped = None;
        while bytes > bound
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.len();
            // One that somebody else removed is gone, too.
            let _ = fs::remove_file(&oldest.path);
            dropped = Some(oldest);
        }
        if self.packing.as_ref().is_none_or(JoinHandle::is_finished) {
            let plain: Vec<PathBuf> =
                kept.into_iter().filter(|it| !it.packed).map(|it| it.path).collect();
            let packing = thread::Builder::new().name("compress".to_owned());
            self.packing = packing
                .spawn(move || {
                    for path in plain {
                        // It stays as it is, and is tried again.
                        let _ = pack(&path);
                    }
                })
                .ok();
        }
        let first = dropped.filter(|_| !std::mem::replace(&mut self.told, true))?;
        Some(format!(
            "{} is full ({} MiB): the oldest evidence is dropped as new comes, from {} on",
            self.folder.display(),
            self.max_bytes >> 20,
            first.began
        ))
    }
}

/// Compresses a segment.
fn pack(path: &Path) -> io::Result<()> {
    let packed = path.with_extension("ndjson.gz");
    let part = path.with_extension("ndjson.gz.part");
    let mut from = plain_file(path)?;
    // Who was ended while it compressed left one.
    let _ = fs::remove_file(&part);
    let into = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let mut into = GzEncoder::new(into, Compression::default());
    io::copy(&mut from, &mut into)?;
    into.finish()?.sync_all()?;
    fs::rename(&part, packed)?;
    fs::remove_file(path)
}

/// Opens a file that is neither a link nor a FIFO.
fn plain_file(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Reads the segments of a folder as if they were one file; none if it has no segments. With `since`
/// from the one on in which that moment is.
pub(super) fn read(folder: &Path, since: Option<Timestamp>) -> Result<Option<BufReader<Chain>>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let all = segments(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if all.is_empty() {
        return Ok(None);
    }
    let since = since.map(|since| since.strftime(FORM).to_string());
    let from = since.map_or(0, |since| {
        // By number, not by name: the clock of people may have been set back.
        all.iter().rposition(|it| it.began <= since).unwrap_or(0)
    });
    let left = all.into_iter().skip(from).map(|it| it.path).collect();
    Ok(Some(BufReader::with_capacity(1 << 16, Chain { left, now: None, last: b'\n' })))
}

/// Files that are read one after the other, each beginning on a line of its own.
pub(super) struct Chain {
    left: VecDeque<PathBuf>,
    now: Option<Box<dyn Read>>,
    last: u8,
}

impl Read for Chain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(now) = &mut self.now else {
                let Some(path) = self.left.pop_front() else { return Ok(0) };
                let packed = path.extension().is_some_and(|it| it == "gz");
                match plain_file(&path) {
                    Ok(file) if packed => {
                        self.now = Some(Box::new(MultiGzDecoder::new(BufReader::new(file))));
                    }
                    Ok(file) => self.now = Some(Box::new(file)),
                    // The oldest go while they are read; what was compressed meanwhile is packed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !packed => {
                        self.left.push_front(path.with_extension("ndjson.gz"));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            let read = now.read(buffer)?;
            if read > 0 {
                self.last = buffer[read - 1];
                return Ok(read);
            }
            self.now = None;
            if self.last != b'\n' && !self.left.is_empty() && !buffer.is_empty() {
                (buffer[0], self.last) = (b'\n', b'\n');
                return Ok(1);
            }
        }
    }
}

/// What the records of a file come to.
#[derive(Debug)]
pub struct Known {
    /// Its first record.
    pub start: Start,
    /// The records on which everything rests, oldest first; open findings are among them.
    pub records: Vec<Record>,
    /// Who lives, whose it is, what it did.
    pub roster: Roster,
    /// The last record; what comes after it is not known.
    pub last: Record,
}

/// What the last file of a folder leaves known; none if there is none with a record in it.
///
/// # Errors
/// If it cannot be read. A file that ends in the middle of a line is one whose writer was ended.
pub fn last_known(folder: &Path) -> Result<Option<Known>> {
    for segment in segments(folder).unwrap_or_default().into_iter().rev() {
        let mut records = Reader::open(&segment.path)?;
        let Some(Ok(Record { body: Body::Start(start), .. })) = records.next() else { continue };
        // One whose writer was ended before it had said what was known.
        let mut whole = !start.continued;
        for record in records.by_ref() {
            match record {
                Ok(Record { body: Body::Checkpoint(part), .. }) => whole = !part.more,
                _ => break,
            }
        }
        if whole {
            return condensed(&segment.path).map(Some);
        }
    }
    Ok(None)
}

/// What the records of one file come to. It is read twice: what is kept is known at its end.
pub(super) fn condensed(path: &Path) -> Result<Known> {
    let mut records = Reader::open(path)?;
    let first = records.next().and_then(Result::ok).context("it has no record")?;
    let Body::Start(start) = &first.body else { anyhow::bail!("it does not begin with `start`") };
    let mut condenser = Condenser::new(&start.profile);
    condenser.take(&first);
    let mut last = first.clone();
    for record in records {
        let record = match record {
            Ok(record) => record,
            // Its writer was ended while it wrote the last line.
            Err(defect) if defect.is_truncation() => break,
            Err(defect) => return Err(defect.into()),
        };
        if !matches!(record.body, Body::Checkpoint(_)) {
            last = Record { body: Body::Tick(crate::model::Tick::default()), ..record.clone() };
        }
        for record in flat(record) {
            condenser.take(&record);
        }
    }
    let chosen = condenser.chosen();
    let kept = Reader::open(path)?.map_while(Result::ok).skip(1).flat_map(flat);
    let kept = kept.filter(|record| chosen.contains(&record.seq)).collect();
    Ok(Known { start: (**start).clone(), records: kept, roster: condenser.into_roster(), last })
}

/// Records as the checkpoints of a `start`: a line is only so long.
///
/// # Errors
/// If a record cannot be written as JSON, which no record is like.
pub fn checkpoints(records: Vec<Record>) -> Result<Vec<Checkpoint>> {
    let mut all = vec![Checkpoint::default()];
    let mut bytes = 0;
    for record in records {
        let len = line(&record)?.len();
        bytes += len;
        if bytes > LINE
            && let Some(full) = all.last_mut().filter(|it| !it.records.is_empty())
        {
            full.more = true;
            bytes = len;
            all.push(Checkpoint::default());
        }
        if let Some(last) = all.last_mut() {
            last.records.push(record);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        evidence::{EvidenceWriter, samples},
        model::{FindingState, Identity, Stop, Tick, testing},
        sink::Sink as _,
    };

    /// The least that there may be: segments of 64 KiB.
    const MAX: u64 = 1 << 20;

    fn start() -> Body {
        Body::Start(Box::new(samples::start()))
    }

    fn put(writer: &mut EvidenceWriter, seq: u64, body: Body) {
        // What ended is forgotten by and by.
        let record = samples::record(seq, seq * 10_000_000_000, body);
        writer.record(&record, &Roster::blank()).unwrap();
        writer.flush().unwrap();
    }

    fn tick() -> Body {
        Body::Tick(Tick::default())
    }

    fn files(folder: &Path) -> Vec<Segment> {
        segments(folder).unwrap()
    }

    /// Waits until only the newest file is not compressed.
    fn packed(folder: &Path) -> Vec<Segment> {
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            let files = files(folder);
            let part = fs::read_dir(folder)
                .unwrap()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().ends_with(".part"));
            if !part && files.iter().rev().skip(1).all(|it| it.packed) {
                return files;
            }
            assert!(Instant::now() < until, "{files:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn read_all(folder: &Path) -> Vec<Record> {
        Reader::open(folder).unwrap().map(Result::unwrap).collect()
    }

    /// Ticks until so many files were begun; the `seq` of the last record.
    fn fill(writer: &mut EvidenceWriter, folder: &Path, mut seq: u64, files_begun: u64) -> u64 {
        while files(folder).last().is_none_or(|it| it.number < files_begun) {
            seq += 1;
            put(writer, seq, tick());
            writer.finish(Duration::from_mins(1)).unwrap();
        }
        seq
    }

    #[test]
    fn a_folder_has_files_one_after_the_other_and_each_is_understood_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("evidence");
        let mut writer = EvidenceWriter::in_folder(&folder, MAX).unwrap();
        let worker = testing::id(20, 5);
        put(&mut writer, 1, start());
        put(&mut writer, 2, testing::spawn(worker).session("key").into());
        put(&mut writer, 3, testing::spawn(testing::id(21, 6)).session("key").into());
        put(&mut writer, 4, Body::Exit(testing::exit(testing::id(21, 6))));
        let finding = testing::finding(crate::model::Kind::Unreachable, [worker]);
        let finding = crate::model::Finding { state: FindingState::Opened, ..finding };
        put(&mut writer, 5, Body::Finding(Box::new(finding)));
        let last = fill(&mut writer, &folder, 5, 4);
        let files = packed(&folder);
        assert_eq!(files.iter().map(|it| it.number).collect::<Vec<_>>(), [1, 2, 3, 4]);

        // Read as one, nothing is missing and nothing is there twice.
        let all = read_all(&folder);
        assert_eq!(all.iter().map(|it| it.seq).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
        // Each by itself says who lives and what is open.
        for file in &files[1..] {
            let alone: Vec<Record> =
                Reader::open(&file.path).unwrap().map(Result::unwrap).collect();
            assert!(matches!(&alone[0].body, Body::Start(start) if start.continued), "{file:?}");
            let Body::Checkpoint(known) = &alone[1].body else { panic!("{:?}", alone[1]) };
            assert_eq!(known.records.iter().map(|it| it.seq).collect::<Vec<_>>(), [2, 5]);
            assert_eq!(alone[0].seq, alone[1].seq);
        }
        let known = last_known(&folder).unwrap().unwrap();
        assert_eq!(known.last.seq, last);
        assert_eq!(known.roster.living(), [(worker, crate::model::Role::Worker),]);
        // From the file on in which a moment is.
        let since = Some(Timestamp::MAX);
        let newest: Vec<Record> =
            Reader::open_since(&folder, since).unwrap().map(Result::unwrap).collect();
        assert!(matches!(&newest[0].body, Body::Start(start) if start.continued));
    }

    #[test]
    fn a_folder_stays_within_its_bound_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut writer = EvidenceWriter::in_folder(folder, MAX).unwrap();
        put(&mut writer, 1, start());
        // What does not compress, so that there is much of it.
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut seq = 1;
        while files(folder).last().is_none_or(|it| it.number < 40) {
            for _ in 0..20 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                seq += 1;
                let spawn = testing::spawn(Identity { pid: 1 + seq as u32, start_ns: random });
                let noise = |at: u64| format!("{:x}", random.wrapping_mul(2 * at + 3));
                let session: String = (0..100).map(noise).collect();
                put(&mut writer, seq, spawn.session(&session).into());
                seq += 1;
                let id = Identity { pid: seq as u32, start_ns: random };
                put(&mut writer, seq, Body::Exit(testing::exit(id)));
            }
            writer.finish(Duration::from_mins(3)).unwrap();
        }
        let entries = fs::read_dir(folder).unwrap().flatten();
        let bytes: u64 = entries.map(|it| it.metadata().unwrap().len()).sum();
        // What is being compressed is there twice for a moment.
        assert!(bytes <= MAX + 2 * MAX / SEGMENTS, "{bytes}");
        assert!(files(folder)[0].number > 1, "{:?}", files(folder));
        let notes = writer.standing().unwrap().notes;
        let told = notes.iter().filter(|note| note.contains("the oldest evidence is dropped"));
        assert_eq!(told.count(), 1, "{notes:?}");
        // What is left is read from its first record on, which is no beginning.
        let all = read_all(folder);
        assert!(matches!(&all[0].body, Body::Start(start) if start.continued));
        assert_eq!(all.last().unwrap().seq, seq);
    }

    #[test]
    fn one_writes_to_a_folder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = EvidenceWriter::in_folder(folder.path(), MAX).unwrap();
        let error = format!("{:#}", EvidenceWriter::in_folder(folder.path(), MAX).unwrap_err());
        assert!(error.contains("another slashtrace writes it: pid "), "{error}");
        drop(first);
    }

    #[test]
    fn whoever_was_cut_off_leaves_what_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let text = |seq: u64, body: Body| line(&samples::record(seq, seq, body)).unwrap() + "\n";
        let spawn: Body = testing::spawn(testing::id(20, 5)).session("key").into();
        let whole = text(1, start()) + &text(2, spawn) + &text(3, tick());
        let path = folder.join("000001-20261127T010000Z.ndjson");
        let second = text(1, start()) + &text(2, tick());
        fs::write(folder.join("000002-20261127T010100Z.ndjson"), second).unwrap();
        for cut in 1..whole.len() {
            fs::write(&path, &whole.as_bytes()[..cut]).unwrap();
            let mut reader = Reader::open(folder).unwrap();
            let read: Vec<Record> = reader.by_ref().map_while(Result::ok).collect();
            let lines = whole[..cut].matches('\n').count();
            let seqs: Vec<u64> = read.iter().map(|it| it.seq).collect();
            if lines == 0 {
                // Without its newline a line may be whole all the same.
                assert!(seqs.is_empty() || seqs == [1, 1, 2], "{cut}: {seqs:?}");
            } else {
                assert!(seqs.ends_with(&[1, 2]) && seqs.len() >= lines + 2, "{cut}: {seqs:?}");
            }
            let known = condensed(&path).ok();
            assert_eq!(known.is_some(), lines > 0 || !seqs.is_empty(), "{cut}");
        }
    }

    #[test]
    fn half_of_what_was_known_is_not_taken_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let text = |seq: u64, body: Body| line(&samples::record(seq, seq, body)).unwrap() + "\n";
        let spawn: Body = testing::spawn(testing::id(20, 5)).session("key").into();
        let whole = text(1, start()) + &text(2, spawn) + &text(3, tick());
        fs::write(folder.join("000001-20261127T010000Z.ndjson"), whole).unwrap();
        let mut goes_on = samples::start();
        goes_on.continued = true;
        let part = |more| Body::Checkpoint(Box::new(Checkpoint { records: Vec::new(), more }));
        let head = text(3, Body::Start(Box::new(goes_on)));
        let second = folder.join("000002-20261127T010100Z.ndjson");
        for (rest, known) in [("", 1), (&*text(3, part(true)), 1), (&*text(3, part(false)), 0)] {
            fs::write(&second, head.clone() + rest).unwrap();
            let known_now = last_known(folder).unwrap().unwrap();
            assert_eq!(known_now.roster.living().len(), known, "{rest}");
            assert_eq!(known_now.last.seq, 3);
        }
        // What is broken in the middle is not taken over at all.
        fs::write(&second, head + &text(3, part(false)) + "nonsense\n" + &text(4, tick())).unwrap();
        assert!(last_known(folder).is_err());
    }

    #[test]
    fn others_may_not_put_files_there() {
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(folder.path(), mode).unwrap();
        let error = format!("{:#}", EvidenceWriter::in_folder(folder.path(), MAX).unwrap_err());
        assert!(error.contains("others may put files"), "{error}");
    }

    #[test]
    fn what_is_no_segment_is_left_alone() {
        for name in ["000001-20261127T010000Z.ndjson.part", "evidence.ndjson", "1-x.ndjson", "lock"]
        {
            assert_eq!(Segment::of(PathBuf::from(name)), None, "{name}");
        }
        let packed = Segment::of(PathBuf::from("/e/0000012-20261127T010000Z.ndjson.gz")).unwrap();
        assert_eq!((packed.number, packed.packed), (12, true));
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), None).unwrap().is_none());
        assert!(last_known(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_checkpoint_is_several_lines_where_one_would_be_long() {
        let record = |seq: u64| {
            let mut stop =
                Stop { reason: "x".repeat(300 << 10), counters: [].into(), complete: true };
            stop.reason.push('y');
            samples::record(seq, seq, Body::Stop(stop))
        };
        let all = checkpoints((1..=8).map(record).collect()).unwrap();
        assert_eq!(all.iter().map(|it| it.records.len()).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(all.iter().map(|it| it.more).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(checkpoints(Vec::new()).unwrap().len(), 1);
    }
}
