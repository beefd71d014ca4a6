//! Where evidence is kept: a file, compressed or not, or a bundle with such a file in it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _},
    path::{Path, PathBuf},
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

/// Opens evidence; `-` is stdin.
///
/// # Errors
/// If there is none: says which file to give instead.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return unwrap(Box::new(io::stdin().lock()), path);
    }
    let path = &find(path)?;
    let file =
        File::open(path).with_context(|| format!("cannot open {}", path.display())).next_step(
            "give the folder or archive that `slashtrace record` made, or the evidence that `run` \
             wrote",
        )?;
    unwrap(Box::new(BufReader::with_capacity(BUFFER, file)), path)
}

/// The evidence in a folder; anything else as it is.
fn find(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let files = NAMES.map(|name| path.join(name));
    match files.into_iter().find(|file| file.exists()) {
        Some(file) => Ok(file),
        None => Err(anyhow!("there is no evidence in the folder {}", path.display())).next_step(
            format!(
                "give the folder that `slashtrace record` made; its evidence is called {}",
                NAMES[0]
            ),
        ),
    }
}

/// Takes compression and archive away.
fn unwrap(mut input: Box<dyn BufRead>, path: &Path) -> Result<Box<dyn BufRead>> {
    if !begins(&mut input, &GZIP)? {
        return Ok(input);
    }
    let mut input: Box<dyn BufRead> =
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)));
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

/// The evidence in an archive, on the disk meanwhile: it may be larger than memory.
fn entry(input: Box<dyn BufRead>, path: &Path) -> Result<Box<dyn BufRead>> {
    let unreadable = || format!("{} is no whole archive", path.display());
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().with_context(unreadable)?.take(ENTRIES_MAX) {
        let mut entry = entry.with_context(unreadable)?;
        let name = entry.path().ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
        if !entry.header().entry_type().is_file()
            || !NAMES.iter().any(|known| name.as_deref() == Some(known.as_ref()))
        {
            continue;
        }
        let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
        io::copy(&mut entry, &mut file).with_context(unreadable)?;
        file.rewind().context("cannot read a temporary file")?;
        let mut input: Box<dyn BufRead> = Box::new(BufReader::with_capacity(BUFFER, file));
        if begins(&mut input, &GZIP)? {
            let decoder: Box<dyn Read> = Box::new(MultiGzDecoder::new(input));
            input = Box::new(BufReader::with_capacity(BUFFER, decoder));
        }
        return Ok(input);
    }
    Err(anyhow!("there is no evidence in the archive {}", path.display()))
        .next_step(format!("give the one that `slashtrace record` made; it has {} in it", NAMES[0]))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
