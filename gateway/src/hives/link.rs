//! The link to one hive: follows its events into the fleet for as long as the queen runs, and comes back after a break.

use std::time::Duration;

use client::HttpClient;
use client::hive::{HiveClient, HiveEvents};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Hives, NodeName};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Follows the hive at `url`, which may change when the hive is started anew, until `stop`.
pub async fn follow(
    hives: Hives,
    node: NodeName,
    mut url: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) {
    let following = async {
        let mut pause = FIRST_RETRY;
        loop {
            let current = url.borrow_and_update().clone();
            if let Some(current) = current {
                let client = HiveClient::new(HttpClient::new(&current));
                // Each connection begins with a snapshot, so that nothing depends on which run of the hive answers.
                match client.events(None).await {
                    Ok(events) => {
                        pause = FIRST_RETRY;
                        tracing::info!(%node, url = current, "hive connected");
                        hives.set_client(&node, client);
                        apply_all(&hives, &node, events).await;
                    }
                    Err(error) => tracing::debug!(%node, %error, "no hive yet"),
                }
            }
            hives.fleet.send_modify(|fleet| fleet.change(&node, |node| node.connected = false));
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
                changed = url.changed() => if changed.is_ok() { pause = FIRST_RETRY } else { tokio::time::sleep(pause).await },
            }
        }
    };
    stop.run_until_cancelled(following).await;
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
