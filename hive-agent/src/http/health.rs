//! Whether the hive answers, and which run of it does.

use axum::extract::State;
use daemon::http::Json;
use protocol::hive::HiveHealth;

use super::App;

/// Tells that the hive is there
#[utoipa::path(get, path = "/health", responses((status = 200, description = "The answer", body = HiveHealth)))]
pub(super) async fn health(State(app): State<App>) -> Json<HiveHealth> {
    Json(app.health)
}
