use anyhow::{Context as _, Result};

use crate::{
    model::SensorKind,
    next_step::NextStep as _,
    sensor::{Options, Sensor, ebpf::EbpfSensor, poll::PollSensor},
};

/// Which sensor set the user wants.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Choice {
    /// Kernel programs if they can be had, else /proc alone; says on stderr which and why.
    #[default]
    Auto,
    /// Kernel programs, or an error.
    Ebpf,
    /// /proc alone: needs no privilege, sees less.
    Poll,
}

/// A sensor set, and why it is this one if the user left the choice.
pub struct Chosen {
    /// The running sensor set.
    pub sensor: Box<dyn Sensor>,
    /// One line for people.
    pub why: Option<String>,
}

/// Starts the sensor set. Must be called within a tokio runtime.
///
/// # Errors
/// If the one that was asked for cannot run here; with `auto`, if none can.
pub fn choose(choice: Choice, options: &Options) -> Result<Chosen> {
    let ebpf = || EbpfSensor::start(options).map(boxed);
    let poll = || PollSensor::start(options).map(boxed);
    match choice {
        Choice::Ebpf => {
            let sensor = ebpf().context("the ebpf sensor cannot run here").next_step(
                "run as root (`sudo slashtrace …`), ask `slashtrace doctor` what is missing, or \
                 use `--sensor poll`",
            )?;
            Ok(Chosen { sensor, why: None })
        }
        Choice::Poll => Ok(Chosen { sensor: poll()?, why: None }),
        Choice::Auto => match ebpf() {
            Ok(sensor) => {
                let why = Some("sensor: ebpf (the kernel programs load)".to_owned());
                Ok(Chosen { sensor, why })
            }
            Err(error) if options.count_calls => Err(error
                .context("--count-calls needs the kernel programs, and they cannot be had here")
                .next_step("run as root (`sudo slashtrace …`), or leave --count-calls out")),
            Err(error) => {
                let sensor = poll()?;
                let kind = SensorKind::Poll;
                debug_assert_eq!(sensor.describe().kind, kind);
                let why = Some(format!("sensor: poll (no kernel programs: {})", one_line(&error)));
                Ok(Chosen { sensor, why })
            }
        },
    }
}

fn boxed(sensor: impl Sensor + 'static) -> Box<dyn Sensor> {
    Box::new(sensor)
}

/// An error with its causes, without next steps: `auto` has taken one already.
fn one_line(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().lines().collect::<Vec<_>>().join(" ");
        // Many errors repeat their source in their own text.
        if !text.is_empty() && causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_not_is_one_line() {
        let error = anyhow::anyhow!("operation not permitted")
            .context("cannot load exec: operation not permitted")
            .context("no kernel programs")
            .next_step("sudo");
        assert_eq!(
            one_line(&error),
            "no kernel programs: cannot load exec: operation not permitted"
        );
    }
}
