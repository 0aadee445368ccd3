//! `workers list`.

use std::process::ExitCode;

use protocol::hive::WorkerInfo;

use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Output, table};

pub(crate) async fn list(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let list = super::connect(settings).await.workers().await?;
    output.answer(&list, || {
        if list.workers.is_empty() {
            return "no workers; the first request for a model starts one".to_owned();
        }
        let header = ["ID", "MODEL", "BACKEND", "STATE", "FREE SLOTS", "PID", "RESTARTS", "URL"];
        table(header, list.workers.iter().map(row))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(worker: &WorkerInfo) -> [String; 8] {
    let device = worker.device.map_or_else(String::new, |device| format!(" {device}"));
    let state = match &worker.error {
        Some(error) => format!("{} ({})", worker.state.as_str(), error.code),
        None => worker.state.as_str().to_owned(),
    };
    [
        worker.id.to_string(),
        worker.model_ref.clone(),
        format!("{}{device}", worker.backend),
        state,
        format!("{} of {}", worker.slots_available, worker.slots_total),
        worker.pid.map_or_else(String::new, |pid| pid.to_string()),
        worker.restarts.to_string(),
        worker.url.clone(),
    ]
}
