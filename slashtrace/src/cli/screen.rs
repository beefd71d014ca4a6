use std::{
    io::{self, IsTerminal as _, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anstream::{ColorChoice, adapter::StripBytes};

use super::Color;
use crate::{daemon::session::Note, unhurried};

/// stderr as people see it: lines and, on a terminal, one line below them that says how it is
/// going. Nobody reading it is no reason to stop, so it has no errors.
#[derive(Clone)]
pub(super) struct Screen {
    state: Arc<Mutex<State>>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// Strips the styles of what is written; none if they are shown.
    strip: Option<StripBytes>,
    /// Whether the status line can be drawn over.
    terminal: bool,
    /// Whether one stands there.
    status: bool,
}

impl Screen {
    /// stderr.
    pub(super) fn stderr(color: Color) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        Self::new(Box::new(unhurried::stderr()), terminal, color.of(&io::stderr()))
    }

    fn new(out: Box<dyn Write + Send>, terminal: bool, choice: ColorChoice) -> Self {
        let strip = (choice == ColorChoice::Never).then(StripBytes::new);
        Self { state: Arc::new(Mutex::new(State { out, strip, terminal, status: false })) }
    }

    /// Whether a status line is of use on it.
    pub(super) fn is_terminal(&self) -> bool {
        self.state().terminal
    }

    /// Writes a line.
    pub(super) fn line(&self, text: &str) {
        self.state().print(&format!("{text}\n"));
    }

    /// Writes what the recording has to tell.
    pub(super) fn note(&self, note: &Note) {
        match note {
            Note::Line(text) => self.line(text),
            Note::Status(text) => {
                let mut state = self.state();
                if state.terminal {
                    state.print(text);
                    state.status = true;
                }
            }
        }
    }

    /// Takes the status line away.
    pub(super) fn end(&self) {
        self.state().print("");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.status) { self.out.write_all(b"\r\x1b[K") } else { Ok(()) }
    }

    fn print(&mut self, text: &str) {
        let _ = self
            .clear()
            .and_then(|()| self.write_all(text.as_bytes()))
            .and_then(|()| self.out.flush());
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(strip) = &mut self.strip else { return self.out.write_all(bytes) };
        strip.strip_next(bytes).try_for_each(|kept| self.out.write_all(kept))
    }
}

/// For those who write lines of their own.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let _ = state.clear().and_then(|()| state.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.state().out.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(terminal: bool, choice: ColorChoice) -> String {
        let paper = Paper::default();
        let mut screen = Screen::new(Box::new(paper.clone()), terminal, choice);
        screen.note(&Note::Line("begun".to_owned()));
        screen.note(&Note::Status("1 s".to_owned()));
        screen.note(&Note::Status("2 s".to_owned()));
        screen.write_all(b"\x1b[1mfo").unwrap();
        screen.write_all(b"und\x1b[0m\n").unwrap();
        screen.note(&Note::Status("3 s".to_owned()));
        screen.end();
        screen.end();
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_status_line_makes_room_for_the_next() {
        let shown = "begun\n1 s\r\x1b[K2 s\r\x1b[Kfound\n3 s\r\x1b[K";
        assert_eq!(written(true, ColorChoice::Never), shown);
        let coloured = shown.replace("found", "\x1b[1mfound\x1b[0m");
        assert_eq!(written(true, ColorChoice::Always), coloured);
    }

    #[test]
    fn a_pipe_gets_lines_alone() {
        assert_eq!(written(false, ColorChoice::Never), "begun\nfound\n");
    }

    #[test]
    fn nobody_reading_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen::new(Box::new(Closed), true, ColorChoice::Never);
        screen.write_all(b"unread").unwrap();
        screen.line("unheard");
        screen.note(&Note::Status("unseen".to_owned()));
        screen.end();
    }
}
