//! One script: read once, called for each request.

use std::sync::Arc;

use protocol::routing::ScriptFault;
use rhai::{AST, Array, CallFnOptions, Dynamic, EvalAltResult, FuncArgs, Position, Scope};
use sha2::{Digest, Sha256};

use super::call::{Baggage, TIME, Trace, Turns, traced};
use super::engine::{ENGINE, OutOfTime, Refusal};
use super::facts::{Facts, Providers, Task, Workers};
use super::lists::{Item, List};
use super::rules::Rules;

/// A script has so many bytes at most.
pub(super) const BYTES_MAX: usize = 256 << 10;
/// Characters of a reason or of a fault that are told.
const TOLD_CHARS: usize = 500;

const ADMIT: &str = "should_admit";
const ROUTE: &str = "route_task";

/// A script that can be called.
#[derive(Debug)]
pub(super) struct Script {
    ast: AST,
    baggage: Baggage,
    admits: bool,
    /// How many values `route_task` wants, if there is one.
    routes: Option<usize>,
    /// SHA-256 of its text, hexadecimal.
    pub(super) digest: String,
}

/// What a script is asked about.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) task: Task,
    pub(super) queue_depth: u32,
    pub(super) workers: Arc<Workers>,
    pub(super) providers: Arc<Providers>,
    /// Whether nothing comes of the answer.
    pub(super) is_trial: bool,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The task is let in; only of `should_admit`.
    Admitted,
    /// It is not.
    NotAdmitted,
    /// This worker, or another one of those that it was chosen from; places in the question's list.
    Worker { at: u32, left: Arc<[u32]> },
    /// One of these.
    Any { left: Arc<[u32]> },
    /// The provider of this id.
    Provider { id: String },
    /// No choice.
    Queue,
    /// `should_admit` has called `error` with this reason.
    Kept(String),
    /// `route_task` has.
    Refused(String),
}

pub(super) type Answered = (Result<Answer, ScriptFault>, Trace);

impl Script {
    pub(super) fn read(text: &str) -> Result<Self, ScriptFault> {
        if text.len() > BYTES_MAX {
            return Err(unplaced(&format!("The script has {} bytes; it may have {BYTES_MAX}.", text.len())));
        }
        let ast = ENGINE.compile(text).map_err(|error| fault(error.into()))?;
        let arities = |name: &str| -> Vec<usize> {
            ast.iter_functions()
                .filter(|function| function.name == name)
                .map(|function| function.params.len())
                .collect()
        };
        let (admit, route) = (arities(ADMIT), arities(ROUTE));
        let wrong = |name, wanted: &str| Err(unplaced(&format!("{name} must be defined once, as {wanted}.")));
        if !matches!(*admit, [] | [3]) {
            return wrong(ADMIT, "should_admit(task, queue_depth, workers)");
        }
        if !matches!(*route, [] | [2 | 3]) {
            return wrong(
                ROUTE,
                "route_task(task, workers) or route_task(task, local_workers, marketplace_providers)",
            );
        }
        if admit.is_empty() && route.is_empty() {
            let message = "The script defines neither should_admit(task, queue_depth, workers) nor route_task(task, workers).";
            return Err(unplaced(message));
        }
        let rules = Arc::new(Rules::of(&ast));
        let script = Self {
            baggage: Baggage { rules, turns: Arc::new(Turns::default()), is_trial: false },
            admits: !admit.is_empty(),
            routes: route.first().copied(),
            digest: crate::hex(&Sha256::digest(text)),
            ast,
        };
        // What stands outside of functions is run with each call; what fails always is told now.
        let (outcome, _) = traced(script.baggage.clone(), Arc::from(""), || {
            ENGINE.run_ast_with_scope(&mut Scope::new(), &script.ast)
        });
        outcome.map_err(|error| fault(*error))?;
        Ok(script)
    }

    /// The names of what it defines.
    pub(super) fn hooks(&self) -> Vec<String> {
        let hooks = [(ADMIT, self.admits), (ROUTE, self.routes.is_some())];
        hooks.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| (*name).to_owned()).collect()
    }

    pub(super) fn admits(&self) -> bool {
        self.admits
    }

    pub(super) fn routes(&self) -> bool {
        self.routes.is_some()
    }

    /// Whether a task is let in.
    pub(super) fn admit(&self, question: &Question) -> Answered {
        let workers = List::of_all(question.workers.clone());
        let (outcome, trace) =
            self.call(ADMIT, question, (question.task.clone(), i64::from(question.queue_depth), workers));
        let answer = outcome.and_then(|answer| match answer {
            Said::Value(value) => match value.as_bool() {
                Ok(true) => Ok(Answer::Admitted),
                Ok(false) => Ok(Answer::NotAdmitted),
                Err(kind) => {
                    let message =
                        format!("{ADMIT} must return true or false; it returned a value of the type {kind}.");
                    Err(unplaced(&message))
                }
            },
            Said::Refused(reason) => Ok(Answer::Kept(reason)),
        });
        (answer, trace)
    }

    /// Where a task goes.
    pub(super) fn route(&self, question: &Question) -> Answered {
        let (task, workers) = (question.task.clone(), List::of_all(question.workers.clone()));
        let (outcome, trace) = if self.routes == Some(3) {
            let providers = List::of_all(question.providers.clone());
            self.call(ROUTE, question, (task, workers, providers))
        } else {
            self.call(ROUTE, question, (task, workers))
        };
        let answer = outcome.and_then(|answer| match answer {
            Said::Value(value) => choice(value),
            Said::Refused(reason) => Ok(Answer::Refused(reason)),
        });
        (answer, trace)
    }

    fn call(
        &self,
        name: &str,
        question: &Question,
        arguments: impl FuncArgs,
    ) -> (Result<Said, ScriptFault>, Trace) {
        let options = CallFnOptions::new().eval_ast(true);
        let baggage = Baggage { is_trial: question.is_trial, ..self.baggage.clone() };
        let (outcome, trace) = traced(baggage, question.task.facts.model.as_str().into(), || {
            ENGINE.call_fn_with_options::<Dynamic>(options, &mut Scope::new(), &self.ast, name, arguments)
        });
        let said = match outcome {
            Ok(value) => Ok(Said::Value(value)),
            Err(error) => match innermost(*error) {
                EvalAltResult::ErrorTerminated(token, _) if token.is::<Refusal>() => {
                    Ok(Said::Refused(shortened(&token.cast::<Refusal>().0)))
                }
                error => Err(fault(error)),
            },
        };
        (said, trace)
    }
}

enum Said {
    Value(Dynamic),
    Refused(String),
}

fn choice(value: Dynamic) -> Result<Answer, ScriptFault> {
    if value.is_unit() {
        return Ok(Answer::Queue);
    }
    let kind = value.type_name();
    let value = match value.try_cast_result::<Item<Workers>>() {
        Ok(Item { list, at }) => return Ok(Answer::Worker { at, left: list.kept }),
        Err(value) => value,
    };
    let value = match value.try_cast_result::<List<Workers>>() {
        Ok(list) => return Ok(any(list.kept)),
        Err(value) => value,
    };
    let value = match value.try_cast_result::<Item<Providers>>() {
        Ok(Item { list, at }) => return Ok(Answer::Provider { id: list.all.id(at as usize).to_owned() }),
        Err(value) => value,
    };
    if let Ok(items) = value.into_array() {
        let items: Option<Vec<u32>> = items_of(items);
        if let Some(left) = items {
            return Ok(any(left.into()));
        }
    }
    let message = format!(
        "{ROUTE} must return a worker, a list of workers, a provider or (); it returned a value of the type {kind}."
    );
    Err(unplaced(&message))
}

fn items_of(items: Array) -> Option<Vec<u32>> {
    items.into_iter().map(|item| Some(item.try_cast::<Item<Workers>>()?.at)).collect()
}

fn any(left: Arc<[u32]>) -> Answer {
    // Who leaves nobody has made no choice, as one who takes the first of nobody.
    if left.is_empty() { Answer::Queue } else { Answer::Any { left } }
}

/// The error itself, without the functions that it came through.
fn innermost(mut error: EvalAltResult) -> EvalAltResult {
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) = error {
        error = *inner;
    }
    error
}

fn fault(error: EvalAltResult) -> ScriptFault {
    let mut error = innermost(error);
    let place = error.take_position();
    let message = match &error {
        EvalAltResult::ErrorTerminated(token, _) if token.is::<OutOfTime>() || token.is_unit() => {
            format!("The script ran for more than {} ms.", TIME.as_millis())
        }
        EvalAltResult::ErrorDataRace(..) => {
            "A closure uses the list that it is called on; put what it needs of it into a variable first."
                .to_owned()
        }
        EvalAltResult::ErrorRuntime(said, _) if said.is_string() => said.to_string(),
        error => error.to_string(),
    };
    placed(&message, place)
}

fn unplaced(message: &str) -> ScriptFault {
    placed(message, Position::NONE)
}

fn placed(message: &str, place: Position) -> ScriptFault {
    ScriptFault {
        message: shortened(message),
        line: place.line().map(|line| line as u32),
        column: place.position().map(|column| column as u32),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TOLD_CHARS).collect()
}
