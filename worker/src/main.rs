//! The program worker-rbee; the library says what it does.

use std::process::ExitCode;

use clap::Parser;
use daemon::config::CommonArgs;
use protocol::ApiError;
use protocol::worker::Backend;
use worker::config::{BenchArgs, Cli, Command, ServeArgs};

/// Threads for connections; the engine has its own.
const REACTOR_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Bench(args)) => bench(&args, &cli.common),
        Some(Command::Backends) => {
            list_backends();
            Ok(())
        }
        Some(Command::Openapi) => print_openapi(),
        None => serve(cli.serve, &cli.common),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&mut std::io::stderr(), &format!("worker-rbee: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs, common: &CommonArgs) -> Result<(), String> {
    let config = worker::config::resolve(args, common).map_err(|error| error.to_string())?;
    let filter = worker::config::log_filter(common).map_err(|error| error.to_string())?;
    daemon::logging::init(&filter).map_err(|error| format!("--log-level: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REACTOR_THREADS)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(worker::run(config, |address| {
        say(&mut std::io::stdout(), &format!("worker-rbee listening on http://{address}"));
    }));
    // Whatever still computes is of no use to anyone; the process does not wait for it.
    runtime.shutdown_background();
    result.map_err(|error| describe(&error))
}

fn bench(args: &BenchArgs, common: &CommonArgs) -> Result<(), String> {
    let config =
        worker::config::resolve_model(args.model.clone(), common).map_err(|error| error.to_string())?;
    let measured = worker::bench::run(args, &config).map_err(|error| describe(&error.into()))?;
    let text = if args.json {
        serde_json::to_string(&measured).map_err(|error| error.to_string())?
    } else {
        measured.to_string()
    };
    say(&mut std::io::stdout(), &text);
    Ok(())
}

/// Tells a hive what it can ask this build for.
fn list_backends() {
    for backend in [Backend::Cpu, Backend::Cuda, Backend::Metal] {
        if worker::device::is_compiled_in(backend) {
            say(&mut std::io::stdout(), backend.as_str());
        }
    }
}

fn print_openapi() -> Result<(), String> {
    let document = worker::http::document().to_pretty_json().map_err(|error| error.to_string())?;
    say(&mut std::io::stdout(), &document);
    Ok(())
}

fn describe(error: &ApiError) -> String {
    format!("{error}\n  {}", error.suggested_action())
}

/// Writes a line; a reader that is gone is no reason to fail.
fn say(stream: &mut dyn std::io::Write, line: &str) {
    let _ = writeln!(stream, "{line}");
    let _ = stream.flush();
}
