//! `cargo xtask`: set-up, build, test and demo of slashtrace, from a bare machine on. One file a
//! command; [`step`] runs and times their parts. Compiles without any other tool or crate of the
//! workspace, because it is what installs them.

mod apt;
mod bench;
mod build;
mod checkout;
mod demo;
mod e2e;
mod fuzz;
mod guest;
mod hermes;
mod run;
mod setup;
mod soak;
mod step;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set-up, build, test and demo of slashtrace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get what the build, the demo and the tests need; does nothing where it is there already.
    Setup,
    /// Set up what a build needs, then build.
    Build(build::Args),
    /// Set up, then check format, lints and docs, and run every test.
    Test(test::Args),
    /// Build and run end-to-end tests side by side: all, or the named files.
    E2e(e2e::Args),
    /// Set up, and run end-to-end tests on other kernels in qemu.
    Vm,
    /// Set up, build, and measure, beside other tools; prints one table.
    Bench(bench::Args),
    /// Set up, build, and watch for an hour whether anything of slashtrace grows.
    Soak(soak::Args),
    /// Set up, build, and have libFuzzer look for bytes that a reader of slashtrace cannot bear.
    Fuzz(fuzz::Args),
    /// Set up, build, and trace a gateway that leaks while it leaks.
    Demo(demo::Args),
    /// Build slashtrace and run it as root, with its exit code.
    Run(run::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::everything().map(|()| ExitCode::SUCCESS),
        Command::Build(args) => build::set_up_and_build(args).map(|_| ExitCode::SUCCESS),
        Command::Test(args) => test::test(&args),
        Command::E2e(args) => test::end_to_end_alone(&args),
        Command::Vm => vm::vm().map(|(steps, skipped)| test::sum_up_alone(&steps, &skipped)),
        Command::Bench(args) => bench::bench(&args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Demo(args) => demo::demo(&args).map(|never| match never {}),
        Command::Run(args) => run::run(&args).map(|never| match never {}),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_stands_behind_the_dashes_is_handed_on_as_it_is() {
        let cli = Cli::try_parse_from(["xtask", "run", "--release", "--", "ps", "--json"]);
        assert!(matches!(cli.expect("valid").command, Command::Run(_)));
        let wrong = Cli::try_parse_from(["xtask", "demo", "--hermes", "0.1.0"]);
        let message = wrong.expect_err("no such version").to_string();
        assert!(message.contains("0.13.0") && message.contains("0.19.0"), "{message}");
    }
}
