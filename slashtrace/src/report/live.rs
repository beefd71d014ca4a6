//! s
use crate::{daemon::Sink, model::*};
use std::io::Write;
/// s
pub struct Live {
    out: Box<dyn Write + Send>,
}
impl Live {
    /// s
    pub fn new(out: Box<dyn Write + Send>, _: bool) -> Self {
        Self { out }
    }
}
impl Sink for Live {
    fn record(&mut self, r: &Record) -> anyhow::Result<()> {
        match &r.body {
            Body::Finding(f) => {
                writeln!(self.out, "{:?} {} ({}) {}", f.state, f.kind, f.confidence, f.text)?
            }
            Body::Spawn(s) => writeln!(
                self.out,
                "spawn {:?} {} {:?} parent {:?}",
                s.role, s.pid, s.session, s.parent
            )?,
            Body::Exit(e) => writeln!(self.out, "{e:?}")?,
            Body::Gap(g) => writeln!(self.out, "{g:?}")?,
            _ => {}
        }
        Ok(())
    }
    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
