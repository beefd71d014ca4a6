use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io::{self, IsTerminal as _},
    os::unix::{
        fs::DirBuilderExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::ZonedDateTime;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use super::{Color, Exit, Watching, runtime};
use crate::{
    daemon::{
        Sink,
        choose::{Chosen, choose},
        session::{Ended, Until, record},
    },
    evidence::EvidenceWriter,
    profile::{Profile, Span},
    report::{live::Live, table::Table},
};

/// Name of the evidence in the folder, once it is whole.
const EVIDENCE: &str = "evidence.ndjson";
/// Its name while it is written.
const PARTIAL: &str = "evidence.ndjson.part";

/// Flags of `record`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    /// Write into this new or empty folder [default: slashtrace-DATE-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Stop after this time: `90s`, `10m`, `2h`
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// Trace while this command runs; its exit code is passed on
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Records into a folder and ends with a table.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let folder = args.output.clone().unwrap_or_else(|| {
        PathBuf::from(ZonedDateTime::now().strftime("slashtrace-%Y%m%d-%H%M%S").to_string())
    });
    prepare(&folder)?;
    let partial = folder.join(PARTIAL);
    let mut evidence = EvidenceWriter::create(&partial)?;
    let color = color.on(io::stderr().is_terminal());
    let mut live = Live::new(Box::new(io::stderr()), color);
    let mut table = Table::new();
    let result = runtime()?.block_on(async {
        let Chosen { sensor, why } = choose(args.watching.sensor, &options)?;
        if let Some(why) = why {
            eprintln!("{why}");
        }
        if args.command.is_empty() {
            match args.duration {
                Some(duration) => eprintln!("recording for {duration}; Ctrl-C ends it earlier"),
                None => eprintln!("recording; Ctrl-C ends it"),
            }
        }
        let sinks: Vec<&mut dyn Sink> = vec![&mut evidence, &mut live, &mut table];
        let duration = args.duration.map(|span| Duration::from_nanos(span.as_ns()));
        with_command(&args.command, async |signals, command| {
            record(sensor, profile, sinks, Until { duration, command, signals }).await
        })
        .await
    });
    let (ended, status) = match result {
        Ok(result) => result,
        Err(error) => {
            // Nothing half-written: an empty file is taken away, a begun recording keeps its name
            // that says so.
            if fs::metadata(&partial).is_ok_and(|file| file.len() == 0) {
                drop(fs::remove_file(&partial));
                drop(fs::remove_dir(&folder));
            }
            return Err(error);
        }
    };
    fs::rename(&partial, folder.join(EVIDENCE))
        .with_context(|| format!("cannot rename {}", partial.display()))?;
    table.render(&mut io::stderr().lock(), color)?;
    eprintln!("\nevidence: {}", folder.join(EVIDENCE).display());
    Ok(exit(&ended, status))
}

/// A command's own failure is never hidden; else loss is told.
fn exit(ended: &Ended, status: Option<ExitStatus>) -> Exit {
    match status.map(shell_code) {
        Some(code) if code != 0 => Exit::Command(code),
        _ if !ended.complete => {
            eprintln!("the evidence is incomplete: see its gap records");
            Exit::Incomplete
        }
        _ => Exit::Fine,
    }
}

/// Exit code as a shell gives it: 128 + N where signal N ended the command.
fn shell_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 255,
    }
}

fn prepare(folder: &Path) -> Result<()> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!(
                    "{} is not empty, and recordings are never overwritten\nnext step: name \
                     another folder with -o",
                    folder.display()
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
                format!(
                    "cannot make the folder {}\nnext step: name one with -o that you may make",
                    folder.display()
                )
            })
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot use the folder {}", folder.display()))
        }
    }
}

/// Runs `body` while the command runs, if there is one: `body` gets whether signals are its own to
/// handle, and a future that ends with the command. Signals are passed on to the command.
async fn with_command<T>(
    command: &[OsString],
    body: impl AsyncFnOnce(bool, std::pin::Pin<Box<dyn Future<Output = ()>>>) -> Result<T>,
) -> Result<(T, Option<ExitStatus>)> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok((body(true, Box::pin(std::future::pending())).await?, None));
    };
    let mut child = spawn(program, arguments)?;
    let (ended, status) = tokio::sync::oneshot::channel();
    let waiting = tokio::task::LocalSet::new();
    let done = std::rc::Rc::new(tokio::sync::Notify::new());
    let tell = std::rc::Rc::clone(&done);
    waiting.spawn_local(async move {
        drop(ended.send(wait(&mut child).await));
        tell.notify_one();
    });
    let command_ended = Box::pin(async move { done.notified().await });
    let result = waiting.run_until(body(false, command_ended)).await?;
    // With --duration the command may go on; it is left alone and its code is not known.
    let status = waiting
        .run_until(async { tokio::time::timeout(Duration::from_millis(1), status).await })
        .await;
    Ok((result, status.ok().and_then(Result::ok).transpose()?))
}

fn spawn(program: &OsString, arguments: &[OsString]) -> Result<Child> {
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    // What this process ignores or blocks is its own affair.
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            Ok(())
        });
    }
    Command::from(command).spawn().with_context(|| {
        format!("cannot run {}\nnext step: check the command after `--`", program.display())
    })
}

/// Waits for the command, passing on what it would get if it were not traced.
async fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        let signal = tokio::select! {
            status = child.wait() => return status.context("cannot wait for the command"),
            // The terminal sends SIGINT to the whole foreground group: the command has it already.
            _ = interrupt.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            // It may have ended meanwhile, which is what the loop waits for.
            let _ = kill_process(pid, signal);
        }
    }
}
