//! Names of the headers that rbee's processes exchange, in lower case as HTTP/2 wants them.

/// Carries the id of the worker that a request is meant for.
pub const WORKER_ID: &str = "x-rbee-worker-id";
/// Carries the boot id of the process that a request is meant for.
pub const BOOT_ID: &str = "x-rbee-boot-id";
/// Carries the id by which one request is known in every log it passes.
pub const REQUEST_ID: &str = "x-request-id";
/// Makes what is sent again under the same key be done once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The number of the last event that a reader has seen (from the server-sent events standard).
pub const LAST_EVENT_ID: &str = "last-event-id";
