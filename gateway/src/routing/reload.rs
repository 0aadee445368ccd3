//! The script's file: read at start, and again whenever it changes. What cannot be read then leaves the last good one in
//! force.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use protocol::routing::ScriptFault;
use tokio_util::sync::CancellationToken;

use super::script::{BYTES_MAX, Script};
use super::{Loaded, Router};
use crate::clock::unix_millis;

/// The file is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The script in force.
pub(super) struct Source {
    pub(super) script: Arc<Script>,
    pub(super) loaded_at_ms: u64,
    /// What is wrong with the file since.
    pub(super) fault: Option<ScriptFault>,
    seen: Option<Seen>,
}

/// What tells one version of a file from the next.
type Seen = (SystemTime, u64);

impl Source {
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let seen = seen(file).ok();
        let text =
            text(file).with_context(|| format!("cannot read the routing script {}", file.display()))?;
        let script = Script::read(&text).map_err(|fault| {
            anyhow::anyhow!("the routing script {} is not valid: {fault}", file.display())
        })?;
        Ok(Self { script: Arc::new(script), loaded_at_ms: unix_millis() as u64, fault: None, seen })
    }
}

fn seen(file: &Path) -> std::io::Result<Seen> {
    let metadata = std::fs::metadata(file)?;
    Ok((metadata.modified()?, metadata.len()))
}

fn text(file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::metadata(file)?.len();
    anyhow::ensure!(bytes <= BYTES_MAX as u64, "it has {bytes} bytes and may have {BYTES_MAX}");
    Ok(std::fs::read_to_string(file)?)
}

impl Router {
    /// Heeds changes of the file until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        let Some(loaded) = self.0 else { return };
        let watching = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let loaded = loaded.clone();
                // Files and the interpreter make whoever asks them wait.
                let _ = tokio::task::spawn_blocking(move || loaded.look()).await;
            }
        };
        stop.run_until_cancelled(watching).await;
    }
}

impl Loaded {
    fn look(&self) {
        let Some(file) = &self.settings.file else { return };
        let seen = seen(file).ok();
        if self.source.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return;
        }
        let read = text(file)
            .map_err(|error| ScriptFault { message: format!("{error:#}"), line: None, column: None })
            .and_then(|text| Script::read(&text));
        let mut source = self.source.write().unwrap_or_else(PoisonError::into_inner);
        source.seen = seen;
        match read {
            Ok(script) => {
                tracing::info!(file = %file.display(), script = script.digest, "the routing script was read again");
                source.script = Arc::new(script);
                source.loaded_at_ms = unix_millis() as u64;
                source.fault = None;
                self.breaker.reset();
            }
            Err(fault) => {
                tracing::warn!(file = %file.display(), %fault, "the changed routing script is not valid; the one before stays in force");
                source.fault = Some(fault);
            }
        }
    }
}
