//! s
use crate::{daemon::Sink, model::*};
use std::io::{self, Write};
/// s
#[derive(Debug, Default)]
pub struct Table {}
impl Table {
    /// s
    pub fn new() -> Self {
        Self {}
    }
    /// s
    pub fn render(&self, _out: &mut dyn Write, _: bool) -> io::Result<()> {
        Ok(())
    }
}
impl Sink for Table {
    fn record(&mut self, _: &Record) -> anyhow::Result<()> {
        Ok(())
    }
    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
