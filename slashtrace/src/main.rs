//! `slashtrace`: see `slashtrace --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    slashtrace::cli::main()
}
