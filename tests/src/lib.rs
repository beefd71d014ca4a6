//! What the end-to-end tests share: [`Recorder`] runs the real tracer, [`Recording`] is what it
//! wrote, [`LeakyGateway`] and [`Hermes`] are what it watches, [`TestProfile`] keeps tests that
//! run at the same time apart, and [`skip!`] says aloud what was not looked at.
//! May touch: processes that it started, files in temporary folders and under `target/`.

mod checkout;
mod fixture;
mod hermes;
mod profile;
mod program;
mod recorder;
mod recording;
mod skip;
mod wait;

pub use checkout::{root, target};
pub use fixture::{Done, LeakyGateway};
pub use hermes::{Hermes, VERSIONS};
pub use profile::{TestProfile, unique};
pub use program::{Output, slashtrace, slashtrace_path};
pub use recorder::Recorder;
pub use recording::Recording;
pub use skip::{root_and_bpf, skipped};
pub use wait::wait_until;
