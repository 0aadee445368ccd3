//! The link to one hive: follows its events into the fleet for as long as the queen runs, and comes back after a break.

use std::sync::Arc;
use std::time::Duration;

use client::HttpClient;
use client::hive::{HiveClient, HiveEvents};
use daemon::auth::Token;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Hives, NodeName};
use crate::pauses::doubling;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// One hive and the way to it.
pub struct Link {
    /// The machine's name.
    pub node: NodeName,
    /// Where the machine is, as routing scripts are to see it.
    pub region: Option<Arc<str>>,
    /// Where the hive listens, which may change when it is started anew.
    pub url: watch::Receiver<Option<String>>,
    /// What the hive wants to see.
    pub token: Option<Token>,
}

impl Link {
    /// Follows the hive until `stop`.
    pub async fn follow(mut self, hives: Hives, stop: CancellationToken) {
        let following = async {
            let mut pauses = doubling(FIRST_RETRY, LAST_RETRY);
            loop {
                let url = self.url.borrow_and_update().clone();
                if let Some(url) = url
                    && self.connect(&hives, &url).await
                {
                    pauses = doubling(FIRST_RETRY, LAST_RETRY);
                    hives.fleet.send_modify(|fleet| fleet.change(&self.node, |node| node.connected = false));
                }
                tokio::select! {
                    () = tokio::time::sleep(pauses.next()) => {}
                    // A new address is tried at once. One that can never change again is left to the pause.
                    Ok(()) = self.url.changed() => pauses = doubling(FIRST_RETRY, LAST_RETRY),
                }
            }
        };
        stop.run_until_cancelled(following).await;
    }

    /// Follows one connection to its end; false if there was none.
    async fn connect(&self, hives: &Hives, url: &str) -> bool {
        let mut http = HttpClient::new(url);
        if let Some(token) = &self.token {
            http = http.with_token(token.expose());
        }
        let client = HiveClient::new(http);
        // Each connection begins with a snapshot, so that nothing depends on which run of the hive answers.
        match client.events(None).await {
            Ok(events) => {
                tracing::info!(node = %self.node, url, "hive connected");
                hives.fleet.send_modify(|fleet| {
                    fleet.change(&self.node, |node| node.region.clone_from(&self.region));
                });
                hives.set_client(&self.node, client);
                apply_all(hives, &self.node, events).await;
                true
            }
            Err(error @ client::Error::Api(_)) => {
                tracing::warn!(node = %self.node, %error, "the hive refuses the queen");
                false
            }
            Err(error) => {
                tracing::debug!(node = %self.node, %error, "no hive yet");
                false
            }
        }
    }
}

async fn apply_all(hives: &Hives, node: &NodeName, mut events: HiveEvents) {
    loop {
        match events.next().await {
            Ok(Some((event, _))) => {
                hives.fleet.send_modify(|fleet| fleet.change(node, |node| node.apply(event)));
            }
            Ok(None) => break tracing::warn!(%node, "the hive ended its events"),
            Err(error) => break tracing::warn!(%node, %error, "the link to the hive broke"),
        }
    }
}
