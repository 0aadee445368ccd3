//! `rbee-hive detect`.

use protocol::hive::Detection;

use super::{Output, say, say_json, table};
use crate::config::Config;
use crate::detect;
use crate::size::human;

pub(super) async fn run(config: &Config, output: Output) -> anyhow::Result<()> {
    let detection = detect::detect(&config.workers.binary).await;
    if output.json { say_json(&detection) } else { show(&detection) }
}

fn show(detection: &Detection) -> anyhow::Result<()> {
    let features = if detection.cpu_features.is_empty() {
        "none that matter for inference".to_owned()
    } else {
        detection.cpu_features.join(" ")
    };
    say(&format!("Platform   {}", detection.platform))?;
    say(&format!("Processor  {}, {} cores", detection.cpu, detection.cores))?;
    say(&format!("Features   {features}"))?;
    let (free, total) = (detection.memory_available_bytes, detection.memory_total_bytes);
    say(&format!("Memory     {} free of {}", human(free), human(total)))?;
    say("")?;
    let mut table = table(&["BACKEND", "DEVICE", "USABLE", "MEMORY", "DETAIL"]);
    for report in &detection.backends {
        let dash = || "-".to_owned();
        table.add_row([
            report.backend.to_string(),
            report.device.map_or_else(dash, |device| device.to_string()),
            if report.available { "yes" } else { "no" }.to_owned(),
            report.memory_total_bytes.map_or_else(dash, human),
            report.detail.clone(),
        ]);
    }
    say(&table.to_string())?;
    Ok(())
}
