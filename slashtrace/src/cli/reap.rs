use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Color, Exit, Watching,
    reaping::{Whom, default_triggers},
    redacting::Redacting,
    runtime,
    screen::Screen,
};
use crate::{
    daemon::{
        Sink,
        choose::choose,
        ending::{self, Promise},
        session::{Note, Plan, Reason, record},
    },
    model::Mode,
    profile::{Profile, Span},
    reaper::{Policy, Trigger},
    redact,
    report::reap::Reaped,
};

/// How often a terminal is told how it is going.
const STATUS_EVERY: Duration = Duration::from_secs(2);

const WHY_NOT_AGE: &str = "\
Age alone selects nobody. A worker of an idle session is as old as the session and looks just like a
leaked one; what tells them apart is whether somebody can still use it. So --older-than only narrows
down what a finding justifies, and a worker that has been read from, or whose gateway has a client, is
ended only where a finding shows that nobody uses it any more.

What takes longer to show than --watch is not seen: leave `slashtrace run --policy dry-run` running.";

/// Flags of `reap`.
#[derive(clap::Args, Debug)]
#[command(after_help = WHY_NOT_AGE)]
pub struct Args {
    /// End what is listed; without it, only list
    #[arg(long)]
    yes: bool,
    /// Watch for this long before and while deciding
    #[arg(long, value_name = "TIME", default_value = "25s")]
    watch: Span,
    /// Only workers that are older than this
    #[arg(long, value_name = "TIME", default_value = "1m")]
    older_than: Span,
    /// Only workers of this session; may be repeated
    #[arg(long = "session", value_name = "KEY")]
    sessions: Vec<String>,
    /// Only for findings of this kind, held at least `strong` or at the given confidence; may be
    /// repeated [default: gateway-orphan terminal-orphan unreachable]
    #[arg(long = "kind", value_name = "KIND[=CONFIDENCE]")]
    kinds: Vec<Trigger>,
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    redacting: Redacting,
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    watching: Watching,
}

/// Watches for a while, and lists or ends what findings justify.
pub fn run(args: &Args, profile: &Profile, color: Color) -> Result<Exit> {
    let options = args.watching.options(profile)?;
    let screen = Screen::stderr(color);
    let span = |span: Span| Duration::from_nanos(span.as_ns());
    let (protect, mut scope) = args.whom.protect()?;
    let (redaction, note) = args.redacting.of_host();
    if let Some(note) = note {
        screen.line(&note);
    }
    // The key itself, or what is shown for it.
    let shown = |key: &String| {
        [key.clone(), redaction.session_key(&redact::escape(key.as_bytes())).into_owned()]
    };
    scope.sessions = args.sessions.iter().flat_map(shown).collect();
    let policy = Policy {
        mode: if args.yes { Mode::Enforce } else { Mode::DryRun },
        triggers: default_triggers(&args.kinds),
        min_age: span(args.older_than),
        // A person looks at the list: they are the budget.
        budget_per_minute: u32::MAX,
        protect,
        scope,
        ..Policy::default()
    };
    let plan = Plan {
        duration: Some(span(args.watch)),
        status: screen.is_terminal().then_some(STATUS_EVERY),
        policy: Some(policy),
        redaction,
        ..Plan::default()
    };
    let mut reaped = Reaped::default();
    ending::watch(Promise::TakenUp).context("cannot watch over signals")?;
    let ended = runtime()?.block_on(async {
        let chosen = choose(args.watching.sensor, &options)?;
        ending::started();
        if let Some(why) = chosen.why {
            screen.line(&why);
        }
        screen.line(&format!("watching for {}; nothing else is looked at", args.watch));
        let sinks: Vec<&mut dyn Sink> = vec![&mut reaped];
        let mut tell = |note: Note| screen.note(&note);
        record(chosen.sensor, profile, sinks, &plan, &mut tell).await
    })?;
    ending::release();
    screen.end();
    let out = &mut color.stdout(args.json);
    if args.json {
        reaped.json(out)?;
    } else {
        reaped.table(out)?;
    }
    if !args.yes && !reaped.rows().is_empty() {
        screen.line("nothing was ended; the same with --yes ends what would be");
    }
    Ok(match ended.reason {
        Reason::Signal(_) => Exit::Incomplete,
        _ if args.yes && !reaped.all_gone() => Exit::Findings,
        _ => Exit::Fine,
    })
}
