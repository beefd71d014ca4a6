//! Where evidence is kept: a file, compressed or not, or a bundle with such a file in it. It may come
//! from anybody: what it unpacks to is bounded, and nothing but files is read.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, Result, anyhow};
use flate2::bufread::MultiGzDecoder;

use crate::next_step::NextStep as _;

/// Names of the evidence in a bundle, the surest first.
pub const NAMES: [&str; 3] = ["evidence.ndjson.gz", "evidence.ndjson", "evidence.ndjson.part"];
/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;
/// Entries of an archive among which the evidence is looked for.
const ENTRIES_MAX: usize = 1_000;
/// First bytes of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Where a tar header has its magic, and which (POSIX.1-1988).
const USTAR: (usize, &[u8]) = (257, b"ustar");
/// How many times its size evidence unpacks to at most. What repeats itself most, samples of one idle
/// worker, has some 40; deflate cannot do more than 1,032 (zlib's "Technical Details").
const RATIO_MAX: u64 = 200;
/// Bytes that may be unpacked from anything.
const UNPACKED_ALWAYS: u64 = 64 << 20;

/// Opens evidence; `-` is stdin.
///
/// # Errors
/// If there is none: says which file to give instead.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return unwrap(Box::new(io::stdin().lock()), path);
    }
    let file = if path.is_dir() { find(path)? } else { given(path)? };
    unwrap(Box::new(BufReader::with_capacity(BUFFER, file)), path)
}

/// Opens evidence that is in memory, in whatever form.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn of_bytes(bytes: Vec<u8>) -> Result<super::Reader<Box<dyn BufRead>>> {
    unwrap(Box::new(io::Cursor::new(bytes)), Path::new("memory")).map(super::Reader::new)
}

/// The file that was named. A FIFO is read if it is one that a shell made (`<(…)`), and so has a
/// writer.
fn given(path: &Path) -> Result<File> {
    let cannot = || format!("cannot open {}", path.display());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.with_context(cannot).next_step(
        "give the folder or archive that `slashtrace record` made, or the evidence that `run` wrote",
    )?;
    let kind = file.metadata().with_context(cannot)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    if kind.is_fifo() && ["/dev/fd", "/proc"].iter().any(|of_shells| path.starts_with(of_shells)) {
        rustix::io::ioctl_fionbio(&file, false)?;
        return Ok(file);
    }
    Err(anyhow!("{} is no file", path.display()))
        .next_step("give a file, or have it read from stdin: `slashtrace replay - < …`")
}

/// The evidence in a folder.
fn find(folder: &Path) -> Result<File> {
    for name in NAMES {
        let path = folder.join(name);
        // Neither a link to elsewhere nor a FIFO that nobody writes to.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot open {}", path.display()))
                    .next_step(
                        "give a folder whose evidence you may read; links are not followed",
                    );
            }
        };
        if !file.metadata()?.is_file() {
            return Err(anyhow!("{} is no file", path.display()))
                .next_step("give the folder that `slashtrace record` made");
        }
        return Ok(file);
    }
    let steps = format!(
        "give the folder that `slashtrace record` made; its evidence is called {}",
        NAMES[0]
    );
    let folder: PathBuf = folder.to_owned();
    Err(anyhow!("there is no evidence in the folder {}", folder.display())).next_step(steps)
}

/// Takes compression and archive away.
fn unwrap(mut input: Box<dyn BufRead>, path: &Path) -> Result<Box<dyn BufRead>> {
    if !begins(&mut input, &GZIP)? {
        return Ok(input);
    }
    let mut input = unpacked(input);
    // A file that was cut off may not even have what is looked for.
    let header = input.fill_buf().unwrap_or_default();
    let (at, magic) = USTAR;
    if header.get(at..at + magic.len()) == Some(magic) {
        return entry(input, path);
    }
    Ok(input)
}

fn begins(input: &mut dyn BufRead, magic: &[u8]) -> Result<bool> {
    Ok(input.fill_buf().context("cannot read")?.starts_with(magic))
}

/// What a gzip file has in it, up to a bound.
fn unpacked(input: Box<dyn BufRead>) -> Box<dyn BufRead> {
    let read = Rc::new(Cell::new(0));
    let decoder = MultiGzDecoder::new(Counted { input, read: Rc::clone(&read) });
    Box::new(BufReader::with_capacity(BUFFER, Bounded { decoder, read, written: 0 }))
}

/// Counts what is read from it.
struct Counted {
    input: Box<dyn BufRead>,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.read.set(self.read.get() + bytes as u64);
        self.input.consume(bytes);
    }
}

/// Ends where more comes out than any recording has in it.
struct Bounded {
    decoder: MultiGzDecoder<Counted>,
    read: Rc<Cell<u64>>,
    written: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.written += read as u64;
        let most = self.read.get().saturating_mul(RATIO_MAX).max(UNPACKED_ALWAYS);
        if self.written > most {
            let what =
                format!("it unpacks to more than {RATIO_MAX} times its size: no recording does");
            return Err(io::Error::other(what));
        }
        Ok(read)
    }
}

/// The evidence in an archive, read from it as it comes: nothing is unpacked to the disk.
fn entry(input: Box<dyn BufRead>, path: &Path) -> Result<Box<dyn BufRead>> {
    let unreadable = || format!("{} is no whole archive", path.display());
    let step = "get it again from where it was recorded, or give its evidence alone";
    let mut archive = tar::Archive::new(input);
    let mut found = None;
    for entry in archive.entries().with_context(unreadable).next_step(step)?.take(ENTRIES_MAX) {
        let entry = entry.with_context(unreadable).next_step(step)?;
        let name = entry.path().ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
        if entry.header().entry_type().is_file()
            && NAMES.iter().any(|known| name.as_deref() == Some(known.as_ref()))
        {
            found = Some(entry.size());
            break;
        }
    }
    let Some(size) = found else {
        return Err(anyhow!("there is no evidence in the archive {}", path.display())).next_step(
            format!("give the one that `slashtrace record` made; it has {} in it", NAMES[0]),
        );
    };
    // Headers are read without a buffer: what comes next is what the entry has in it.
    let mut input: Box<dyn BufRead> = Box::new(archive.into_inner().take(size));
    if begins(&mut input, &GZIP)? { Ok(unpacked(input)) } else { Ok(input) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::{
        super::{Reader, line, samples},
        *,
    };
    use crate::next_step::next_steps;

    fn text() -> String {
        samples::all().iter().map(|record| line(record).unwrap() + "\n").collect()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    }

    fn read(path: &Path) -> usize {
        Reader::open(path).unwrap().map(Result::unwrap).count()
    }

    #[test]
    fn evidence_is_read_in_any_form() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let all = samples::all().len();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in
            [("b/README.txt", b"x".to_vec()), ("b/evidence.ndjson.gz", gz(text().as_bytes()))]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, &*bytes).unwrap();
        }
        let archive = write("b.tar.gz", &gz(&tar.into_inner().unwrap()));
        assert_eq!(read(&archive), all);
        assert_eq!(read(&write("plain", text().as_bytes())), all);
        assert!(Reader::open(folder.path()).is_err());
        write("evidence.ndjson.part", text().lines().next().unwrap().as_bytes());
        assert_eq!(read(folder.path()), 1);
        assert_eq!(read(&write("evidence.ndjson.gz", &gz(text().as_bytes()))), all);
        assert_eq!(read(folder.path()), all);
    }

    #[test]
    fn what_was_cut_off_gives_what_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.ndjson.gz");
        let whole = gz(text().as_bytes());
        for end in 1..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let Ok(reader) = Reader::open(&path) else { continue };
            for record in reader {
                if record.is_err() {
                    break;
                }
            }
        }
    }

    /// Zeros are what packs best.
    fn bomb(bytes: u64) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::best());
        io::copy(&mut io::repeat(0).take(bytes), &mut gz).unwrap();
        gz.finish().unwrap()
    }

    fn refused(path: &Path) -> String {
        match Reader::open(path) {
            Ok(mut reader) => reader.find_map(Result::err).unwrap().to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_unpacks_to_more_than_any_recording_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar.gz");
        let tar = |name: &str, bytes: &[u8]| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
            tar.into_inner().unwrap()
        };
        let zeros = bomb(UNPACKED_ALWAYS + (1 << 20));
        for (what, bytes) in [
            ("evidence", gz(&tar("b/evidence.ndjson.gz", &zeros))),
            (
                "before it",
                gz(&[tar("b/x", &vec![0; 65 << 20]), tar("b/evidence.ndjson", b"x")].concat()),
            ),
            ("plain", zeros.clone()),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = refused(&path);
            let known = ["200 times its size", "longer than 16 MiB"];
            assert!(known.iter().any(|known| error.contains(known)), "{what}: {error}");
            if let Err(error) = Reader::open(&path) {
                assert!(next_steps(&error)[0].starts_with("get it again"), "{what}: {error:#}");
            }
        }
        // Whole lines, of which none is too long.
        let lines = text().lines().next().unwrap().to_owned() + "\n";
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(lines.as_bytes()).unwrap();
        let tick = "{\"v\":1,\"seq\":1,\"time\":\"1970-01-01T00:00:00Z\",\"boottime_ns\":1,\"type\":\"tick\"}";
        let padded = format!("{tick:<4000}\n").repeat(64);
        for _ in 0..300 {
            packed.write_all(padded.as_bytes()).unwrap();
        }
        std::fs::write(&path, packed.finish().unwrap()).unwrap();
        let mut input = open(&path).unwrap();
        let error = io::copy(&mut input, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("200 times its size"), "{error}");
    }

    #[test]
    fn nothing_but_files_is_read_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.ndjson");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        for given in [folder.path(), &path] {
            assert!(refused(given).contains("evidence.ndjson is no file"), "{}", given.display());
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(refused(folder.path()).contains("cannot open"));
        assert!(refused(Path::new("/dev/zero")).contains("is no file"));
    }

    #[test]
    fn what_has_no_evidence_says_what_to_give() {
        let folder = tempfile::tempdir().unwrap();
        let error = Reader::open(folder.path()).err().unwrap();
        assert!(next_steps(&error)[0].starts_with("give the folder"), "{error}");
        let path = folder.path().join("x.tar.gz");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, "README.txt", &b"x"[..]).unwrap();
        std::fs::write(&path, gz(&tar.into_inner().unwrap())).unwrap();
        let error = Reader::open(&path).err().unwrap().to_string();
        assert!(error.contains("no evidence in the archive"), "{error}");
    }
}
