//! The command line's words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use protocol::config::DEFAULT_CHAT_MODEL;

use crate::config::SettingsArgs;

const EXAMPLES: &str = "\
Examples:
  rbee-keeper up                                  start everything, here, until Ctrl+C
  rbee-keeper infer --prompt \"Say hello.\"         ask; starts rbee in the background if it is not running
  git diff | rbee-keeper infer --prompt -         ask with what comes from a pipe
  rbee-keeper models pull gemma-3-270m            fetch a model before its first use
  rbee-keeper workers list --json                 for programs
  rbee-keeper down                                stop everything

Settings come from flags, then environment variables, then the [keeper] section of the settings file.";

/// Starts rbee, asks it and looks after it.
#[derive(Debug, Parser)]
#[command(name = "rbee-keeper", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in the foreground; Ctrl+C stops everything
    Up(UpArgs),
    /// Stop the running queen and all that she started
    Down,
    /// Run the queen in the background
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Ask a model; its words go to standard output as they come, all else to standard error
    Infer(InferArgs),
    /// See and fetch models
    #[command(subcommand, visible_alias = "model")]
    Models(ModelsCommand),
    /// See the processes that generate
    #[command(subcommand, visible_alias = "worker")]
    Workers(WorkersCommand),
    /// See, follow and end the tasks that the queen keeps; they outlast her
    #[command(subcommand, visible_alias = "task")]
    Tasks(TasksCommand),
    /// Tell who waits for what, and for how long
    Queue,
    /// Try out a routing script, and see what the one in force decided
    #[command(subcommand, visible_alias = "routing")]
    Route(RouteCommand),
    /// Print a completion script: rbee-keeper completions bash > /etc/bash_completion.d/rbee-keeper
    Completions {
        /// The shell that will read it
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The model to have ready on disk before the first request
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CHAT_MODEL)]
    pub(crate) model: String,
    /// Fetch no model now; each is fetched at its first use
    #[arg(long, conflicts_with = "model")]
    pub(crate) no_model: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Start the queen, and with her the local hive, and leave them running
    Start,
    /// Stop them and wait until they are gone
    Stop,
    /// Tell whether they run; exit code 0 if so, 1 if not
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models that are here and those that can be fetched
    List,
    /// Fetch a model: a name from the list, or file:/path/to/model.gguf
    Pull {
        /// The model's name
        model: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List all workers of all hives
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Submit a task, which runs whether or not anyone waits for it
    Submit(TaskSubmitArgs),
    /// List tasks, the newest first
    List(TaskListArgs),
    /// Show one task: its state, where it ran and why, and its answer
    Show {
        /// The task's id
        job_id: String,
    },
    /// Write a task's words to standard output, from its first on, until it ends
    Follow {
        /// The task's id
        job_id: String,
    },
    /// End a task; one that has ended stays as it is
    Cancel {
        /// The task's id
        job_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Tell whether a script is valid; exit code 0 if so, 1 if not
    Check {
        /// The script; - reads it from standard input
        script: PathBuf,
    },
    /// Tell what a script would decide for a task, with the workers that there are
    Test(RouteTestArgs),
    /// Tell what a script would have decided for the latest requests; exit code 1 if it fails on any
    Replay {
        /// The script; - reads it from standard input
        script: PathBuf,
    },
    /// Tell why a request or task went where it went; the latest decisions if no id is given
    Explain {
        /// The request's id, as the answer's x-request-id tells it, or the task's
        id: Option<String>,
    },
    /// Tell which script is in force, and what it decided how often
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct RouteTestArgs {
    /// The script; - reads it from standard input [default: the one in force]
    pub(crate) script: Option<PathBuf>,
    /// The model that the task asks for
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CHAT_MODEL)]
    pub(crate) model: String,
    /// high, interactive, batch, low or background
    #[arg(long, value_name = "BAND")]
    pub(crate) priority: Option<String>,
    /// Tokens of its prompt
    #[arg(long, value_name = "N")]
    pub(crate) prompt_tokens: Option<u32>,
    /// Tokens of its answer at most
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// The rules that it is under, such as gdpr
    #[arg(long, value_name = "RULES")]
    pub(crate) compliance: Option<String>,
    /// What the caller wrote on it, as in team=research; may be given several times
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    pub(crate) tags: Vec<String>,
    /// Requests that wait [default: as many as do now]
    #[arg(long, value_name = "N")]
    pub(crate) queue_depth: Option<u32>,
    /// A JSON file of a whole case: task, workers, marketplace_providers, queue_depth; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["priority", "prompt_tokens", "max_tokens", "compliance", "tags", "queue_depth"])]
    pub(crate) case: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TaskListArgs {
    /// Only tasks that are queued, dispatched, running, completed, failed or cancelled
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only tasks for this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Tasks at most, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    /// Begin after the task with this id
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
}

/// A key goes into a header.
fn key(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain {
        Ok(text.to_owned())
    } else {
        Err("1 to 255 letters, digits and signs, no spaces".to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct TaskSubmitArgs {
    /// File with the task as JSON, as POST /v2/tasks takes it; - reads it from standard input
    pub(crate) task: PathBuf,
    /// The same task under the same key is one task, however often it is submitted
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) idempotency_key: Option<String>,
    /// Wait, and write its words to standard output
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 124 out of time, 130 Ctrl+C.")]
pub(crate) struct InferArgs {
    /// The model to ask [default: the queen's default model]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// What to ask; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// The node that must run it
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Tokens to generate at most
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 (always the likeliest token) to 2
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability, 0 to 1
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// The same seed and prompt give the same words
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Give up after this many seconds, waiting included
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_after_the_command() {
        let cli = Cli::try_parse_from(["rbee-keeper", "workers", "list", "--json"]).unwrap();
        assert!(cli.settings.json);
        assert!(matches!(cli.command, Command::Workers(WorkersCommand::List)));
    }

    #[test]
    fn a_model_and_no_model_exclude_each_other() {
        assert!(Cli::try_parse_from(["rbee-keeper", "up", "--model", "m", "--no-model"]).is_err());
        assert!(Cli::try_parse_from(["rbee-keeper", "up", "--no-model"]).is_ok());
    }
}
