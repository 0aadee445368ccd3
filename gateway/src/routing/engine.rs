//! The interpreter, with what scripts may use and nothing else: no files, no network, no `eval`, no `import`, no sleep.

use std::sync::LazyLock;

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage,
    BasicMathPackage, BasicStringPackage, LogicPackage, MoreStringPackage, Package,
};
use rhai::{Dynamic, Engine, EvalAltResult, Map, Position};

use super::call;
use super::facts::{Providers, Task, Workers};
use super::lists::{dynamic, register, register_workers};

/// Steps of the interpreter in one call; far more than fit into its time.
const OPERATIONS: u64 = 10_000_000;
const CALL_DEPTH: usize = 32;
const EXPRESSION_DEPTH: usize = 64;
const STRING_BYTES: usize = 64 << 10;
const ARRAY_LENGTH: usize = 20_000;
const MAP_LENGTH: usize = 1000;
const VARIABLES: usize = 200;
const FUNCTIONS: usize = 200;
/// The clock is looked at once in so many steps.
const STEPS_BETWEEN_LOOKS: u64 = 128;

/// The one interpreter; scripts share nothing in it.
pub(super) static ENGINE: LazyLock<Engine> = LazyLock::new(engine);

/// What `error("...")` ends a script with.
#[derive(Debug, Clone)]
pub(super) struct Refusal(pub(super) String);

/// What a script whose time is over is ended with.
#[derive(Debug, Clone)]
pub(super) struct OutOfTime;

fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    engine
        .register_global_module(ArithmeticPackage::new().as_shared_module())
        .register_global_module(LogicPackage::new().as_shared_module())
        .register_global_module(BasicStringPackage::new().as_shared_module())
        .register_global_module(MoreStringPackage::new().as_shared_module())
        .register_global_module(BasicMathPackage::new().as_shared_module())
        .register_global_module(BasicArrayPackage::new().as_shared_module())
        .register_global_module(BasicMapPackage::new().as_shared_module())
        .register_global_module(BasicIteratorPackage::new().as_shared_module())
        .register_global_module(BasicFnPackage::new().as_shared_module());
    engine
        .disable_symbol("eval")
        .disable_symbol("import")
        .disable_symbol("export")
        .set_max_operations(OPERATIONS)
        .set_max_call_levels(CALL_DEPTH)
        .set_max_expr_depths(EXPRESSION_DEPTH, EXPRESSION_DEPTH)
        .set_max_string_size(STRING_BYTES)
        .set_max_array_size(ARRAY_LENGTH)
        .set_max_map_size(MAP_LENGTH)
        .set_max_variables(VARIABLES)
        .set_max_functions(FUNCTIONS)
        .set_max_modules(0)
        .set_max_strings_interned(256);
    engine.on_progress(|steps| {
        (steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && call::is_over()).then(|| Dynamic::from(OutOfTime))
    });
    engine.on_print(|text| call::note("print", text));
    engine.on_debug(|text, _, _| call::note("debug", text));
    engine
        .register_fn("log_info", |text: &str| call::note("info", text))
        .register_fn("log_warn", |text: &str| call::note("warn", text))
        .register_fn("error", |reason: &str| -> Result<(), Box<EvalAltResult>> {
            let refusal = Dynamic::from(Refusal(reason.to_owned()));
            Err(Box::new(EvalAltResult::ErrorTerminated(refusal, Position::NONE)))
        });
    register_task(&mut engine);
    register::<Workers>(&mut engine);
    register::<Providers>(&mut engine);
    register_workers(&mut engine);
    engine
}

fn register_task(engine: &mut Engine) {
    engine.register_type_with_name::<Task>("Task");
    for field in Task::FIELDS {
        engine.register_get(*field, move |task: &mut Task| dynamic(task.fact(field)));
    }
    engine.register_get("tags", |task: &mut Task| -> Map {
        let tags = task.facts.tags.iter();
        tags.map(|(name, tag)| (name.as_str().into(), tag.into())).collect()
    });
}
