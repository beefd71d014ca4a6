use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{Color, Exit, Watching, runtime};
use crate::{
    daemon::{
        Sink,
        choose::choose,
        session::{Until, record},
    },
    evidence::EvidenceWriter,
    profile::Profile,
    report::live::Live,
};

/// Flags of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    /// Write evidence (NDJSON) to this new file, or to stdout if it is `-`
    #[arg(long, value_name = "FILE", default_value = "-")]
    evidence: PathBuf,
    /// Print nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

/// Watches until SIGINT, SIGTERM or SIGHUP.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let mut evidence = if args.evidence == Path::new("-") {
        EvidenceWriter::stdout()
    } else {
        EvidenceWriter::create(&args.evidence)?
    };
    let mut live = Live::new(Box::new(io::stderr()), color.on(io::stderr().is_terminal()));
    let ended = runtime()?.block_on(async {
        let chosen = choose(args.watching.sensor, &options)?;
        if let Some(why) = chosen.why
            && !args.quiet
        {
            eprintln!("{why}");
        }
        let mut sinks: Vec<&mut dyn Sink> = vec![&mut evidence];
        if !args.quiet {
            sinks.push(&mut live);
        }
        let until = Until { duration: None, command: std::future::pending(), signals: true };
        record(chosen.sensor, profile, sinks, until).await
    })?;
    Ok(if ended.complete { Exit::Fine } else { Exit::Incomplete })
}
