use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::ProcFs;

/// Bytes of a path with its NUL: /proc, a pid, a name of procfs and a descriptor are some 40.
const MAX: usize = 256;

/// The path of a file in /proc, on the stack: thousands are read a second.
#[derive(Debug)]
pub(super) struct ShortPath {
    bytes: [u8; MAX],
    len: usize,
}

impl ProcFs {
    /// The path of something of a process.
    ///
    /// # Errors
    /// ENAMETOOLONG where /proc is mounted at a very long path.
    pub(super) fn short(&self, pid: u32, name: &str) -> io::Result<ShortPath> {
        let path = ShortPath { bytes: [0; MAX], len: 0 };
        let path = path.text(self.root.as_os_str().as_bytes())?.text(b"/")?.number(pid)?;
        path.text(b"/")?.text(name.as_bytes())
    }
}

impl ShortPath {
    fn text(mut self, text: &[u8]) -> io::Result<Self> {
        let end = self.len + text.len();
        // One byte more is left for the NUL.
        let room = self.bytes[..MAX - 1].get_mut(self.len..end).ok_or(Errno::NAMETOOLONG)?;
        room.copy_from_slice(text);
        self.len = end;
        Ok(self)
    }

    /// The same, followed by a number.
    pub(super) fn number(self, mut number: u32) -> io::Result<Self> {
        let mut digits = [0; 10];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return self.text(&digits[at..]);
            }
        }
    }

    /// As system calls take it.
    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// Reads the file in one go, as far as there is room.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(self.as_c_str(), flags, Mode::empty())?);
        file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_or_refused() {
        let path = |proc: &ProcFs| proc.short(7, "fd/").and_then(|path| path.number(u32::MAX));
        let path_at = |root: &str| path(&ProcFs::new(root));
        assert_eq!(path_at("/proc").unwrap().as_c_str(), c"/proc/7/fd/4294967295");
        assert_eq!(path_at("/p").unwrap().number(0).unwrap().as_c_str(), c"/p/7/fd/42949672950");
        let fits = "/".repeat(MAX - 1 - "/7/fd/4294967295".len());
        assert_eq!(path_at(&fits).unwrap().as_c_str().count_bytes(), MAX - 1);
        let error = path_at(&(fits + "/")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NAMETOOLONG.raw_os_error()));
    }
}
