//! Logs go to standard error, one line an event; standard output belongs to what the user asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at this level or by this filter. A filter that cannot be parsed is an error of usage.
pub fn init(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    // A second call, as in tests that build two daemons in one process, keeps the first logger.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that nobody reads any more, as when the parent that held its other end was killed, is no reason to
        // panic: complaining about it would.
        .log_internal_errors(false)
        .try_init();
    Ok(())
}
