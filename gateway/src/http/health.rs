//! GET /health: whether the queen takes requests. Open to all.

use daemon::http::Json;
use protocol::queen::QueenHealth;

use super::State;

/// Whether the server takes requests.
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, description = "The answer", body = QueenHealth))
)]
pub(super) async fn health(queen: State) -> Json<QueenHealth> {
    let fleet = queen.inference.hives.fleet();
    Json(QueenHealth {
        status: if queen.stop.is_cancelled() { "draining" } else { "healthy" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        workers_total: fleet.workers().count() as u32,
        workers_healthy: fleet.reachable_workers().filter(|(_, worker)| worker.state.takes_requests()).count()
            as u32,
        hives_connected: fleet.nodes().filter(|(_, node)| node.connected).count() as u32,
        queue_depth: queen.inference.scheduler.load().depth,
        uptime_seconds: queen.started.elapsed().as_secs(),
    })
}
