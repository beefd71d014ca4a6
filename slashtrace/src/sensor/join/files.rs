use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    task::{Context, Poll, Waker},
};

use rustix::fs::{
    fstat,
    inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};
use tokio::io::unix::AsyncFd;

use crate::{host::proc::itself, sensor::terminal::Place};

/// Session files that are watched. Those of further terminals are read when these are looked at again.
const FILES_MAX: usize = 1_024;

/// A file, whatever its name.
type Inode = (u64, u64);

/// The session files of terminals, watched by inotify(7): each write counts, and a later one hides an
/// earlier one.
#[derive(Debug)]
pub(in crate::sensor) struct SessionFiles {
    inotify: Option<AsyncFd<OwnedFd>>,
    watched: BTreeMap<Place, (Inode, i32)>,
    /// Whose file it is. Two terminals may name the same.
    places: BTreeMap<i32, BTreeSet<Place>>,
}

impl SessionFiles {
    /// Watches none yet; without a tokio runtime it never does.
    pub(in crate::sensor) fn new() -> Self {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let started = inotify::init(flags).map_err(io::Error::from);
        let inotify = started.ok().filter(|_| tokio::runtime::Handle::try_current().is_ok());
        // SAFETY: an `OwnedFd` is always the same descriptor, and stays open until the `AsyncFd` that
        // owns it is dropped.
        let inotify = inotify.and_then(|fd| unsafe { AsyncFd::register(fd) }.ok());
        Self { inotify, watched: BTreeMap::new(), places: BTreeMap::new() }
    }

    /// Watches the file of a terminal, in place of the one that it named before. True if that is a
    /// new watch: it may have been written between the reading and this.
    pub(in crate::sensor) fn watch(&mut self, place: Place, file: &OwnedFd) -> bool {
        let Ok(stat) = fstat(file) else { return false };
        let inode = (stat.st_dev, stat.st_ino);
        if self.watched.get(&place).is_some_and(|(known, _)| *known == inode) {
            return false;
        }
        self.forget(place);
        if self.watched.len() >= FILES_MAX {
            return false;
        }
        let Some(fd) = &self.inotify else { return false };
        let flags = WatchFlags::CLOSE_WRITE;
        let Ok(wd) = inotify::add_watch(fd.get_ref(), itself(file), flags) else { return false };
        self.watched.insert(place, (inode, wd));
        self.places.entry(wd).or_default().insert(place);
        true
    }

    /// A terminal was closed.
    pub(in crate::sensor) fn forget(&mut self, place: Place) {
        let Some((_, wd)) = self.watched.remove(&place) else { return };
        let Some(places) = self.places.get_mut(&wd) else { return };
        places.remove(&place);
        if places.is_empty() {
            self.places.remove(&wd);
            if let Some(fd) = &self.inotify {
                // It may have ended with its file.
                let _ = inotify::remove_watch(fd.get_ref(), wd);
            }
        }
    }

    /// Waits until a file was written. Cancel-safe: it reads nothing.
    pub(in crate::sensor) async fn readable(&self) {
        match &self.inotify {
            Some(fd) if !self.watched.is_empty() => {
                // An error is found again by the reading that follows.
                let _ = fd.readable().await;
            }
            _ => pending().await,
        }
    }

    /// The terminals whose files were written since the last time.
    pub(in crate::sensor) fn written(&mut self) -> BTreeSet<Place> {
        let mut written = BTreeSet::new();
        let Some(fd) = &self.inotify else { return written };
        if self.watched.is_empty() {
            return written;
        }
        // Before the reading, so that what comes after it makes it ready again.
        let ready = fd.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
        let mut ended = Vec::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                written.extend(self.watched.keys());
            }
            written.extend(self.places.get(&event.wd()).into_iter().flatten());
            if event.events().contains(ReadFlags::IGNORED) {
                ended.push(event.wd());
            }
        }
        if let Poll::Ready(Ok(mut ready)) = ready {
            ready.clear_ready();
        }
        for wd in ended {
            for place in self.places.remove(&wd).into_iter().flatten() {
                self.watched.remove(&place);
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[tokio::test]
    async fn each_write_is_noticed_until_the_terminal_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session");
        fs::write(&path, "").unwrap();
        let open = || OwnedFd::from(File::open(&path).unwrap());
        let mut files = SessionFiles::new();
        let (one, two) = ((7, 3), (7, 4));
        assert!(files.watch(one, &open()) && files.watch(two, &open()));
        assert!(!files.watch(one, &open()), "it is watched");
        assert!(files.written().is_empty());
        fs::write(&path, "{}").unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), files.readable()).await.unwrap();
        assert_eq!(files.written(), BTreeSet::from([one, two]));
        assert!(files.written().is_empty());
        files.forget(one);
        fs::write(&path, "{}").unwrap();
        assert_eq!(files.written(), BTreeSet::from([two]));

        // Removed and made anew, it is another file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(files.written());
        assert!(files.watch(two, &open()));
        fs::write(&path, "{}").unwrap();
        assert_eq!(files.written(), BTreeSet::from([two]));
    }
}
