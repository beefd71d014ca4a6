//! trial
use slashtrace::{sensor::{Options, ebpf::EbpfSensor}, profile::Profile};
#[tokio::main(flavor="current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut s = EbpfSensor::start(&Options { profile: Profile::hermes(), sample_interval: std::time::Duration::from_secs(2), count_calls: std::env::var_os("CC").is_some(), kernel_log: false })?;
    println!("loaded");
    s.next().await?;
    Ok(())
}
