//! `syncline-sim wire-cost`: what synchronising costs in bytes, each dialect against the others. Its place; not built.

use anyhow::{Result, bail};

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct WireCostArgs {}

/// Measures.
pub async fn run(_args: &WireCostArgs) -> Result<()> {
    bail!("wire-cost is not built yet")
}
