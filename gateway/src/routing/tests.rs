//! The four scripts of the guide, those of docs/routing.md, and what a script must not do.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use protocol::routing::{
    ProviderGeo, ProviderPricing, ProviderSla, RoutingProvider, RoutingTask, RoutingWorker,
};
use protocol::task::Priority;
use protocol::worker::{Backend, WorkerState};

use super::call::TIME;
use super::facts::{Providers, Task, Workers};
use super::rules::Rules;
use super::script::{Answer, Question, Script};

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap()
}

fn script(text: &str) -> Script {
    Script::read(text).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

fn example(name: &str) -> Script {
    script(&file(&format!("examples/routing/{name}.rhai")))
}

fn worker(id: &str) -> RoutingWorker {
    RoutingWorker {
        id: id.to_owned(),
        node: format!("node-of-{id}"),
        model: "m".to_owned(),
        ..RoutingWorker::default()
    }
}

fn cuda(id: &str, gpus: u32) -> RoutingWorker {
    RoutingWorker { backend: Backend::Cuda, device: Some(0), gpus, ..worker(id) }
}

fn busy(worker: RoutingWorker, outstanding_tokens: u64) -> RoutingWorker {
    RoutingWorker { state: WorkerState::Busy, slots_available: 0, outstanding_tokens, ..worker }
}

fn question(task: RoutingTask, workers: Vec<RoutingWorker>) -> Question {
    Question {
        task: Task { facts: Arc::new(task), readers: Arc::default() },
        queue_depth: 0,
        workers: Arc::new(Workers::Told(workers)),
        providers: Arc::new(Providers::default()),
        is_trial: false,
    }
}

fn of_model(model: &str) -> RoutingTask {
    RoutingTask { model: model.to_owned(), ..RoutingTask::default() }
}

/// The id of the worker that is chosen, or what else comes of it.
fn route(script: &Script, question: &Question) -> String {
    let (answer, _) = script.route(question);
    told(answer.unwrap_or_else(|fault| panic!("{fault}")), question)
}

fn told(answer: Answer, question: &Question) -> String {
    match answer {
        Answer::Worker { at, .. } => match question.workers.name(at as usize) {
            ("", node) => format!("start on {node}"),
            (id, _) => id.to_owned(),
        },
        Answer::Any { left } => {
            let names: Vec<_> = left.iter().map(|at| question.workers.name(*at as usize).0).collect();
            format!("any of {}", names.join(" "))
        }
        Answer::Provider { id } => format!("provider {id}"),
        Answer::Queue => "queue".to_owned(),
        Answer::Refused(reason) => format!("refused: {reason}"),
        other => format!("{other:?}"),
    }
}

fn admits(script: &Script, queue_depth: u32, workers: Vec<RoutingWorker>) -> Answer {
    let question = Question { queue_depth, ..question(RoutingTask::default(), workers) };
    script.admit(&question).0.unwrap()
}

#[test]
fn the_guides_script_by_model_size() {
    let script = example("model-size");
    let workers = || vec![worker("cpu"), busy(cuda("one", 1), 9), cuda("two", 2), cuda("three", 1)];
    for (model, expected) in [("llama-70b", "two"), ("llama-7b", "two"), ("smollm2-135m", "cpu")] {
        assert_eq!(route(&script, &question(of_model(model), workers())), expected, "{model}");
    }
    assert_eq!(route(&script, &question(of_model("llama-70b"), vec![worker("cpu")])), "queue");
    let (answer, _) = script.route(&question(of_model("llama-7b"), workers()));
    assert_eq!(
        answer,
        Ok(Answer::Worker { at: 2, left: Arc::new([1, 2, 3]) }),
        "those it was chosen from are known"
    );
}

#[test]
fn the_guides_script_by_priority_and_compliance() {
    let script = example("priority-and-compliance");
    let eu = RoutingWorker { region: "EU".to_owned(), ..worker("eu") };
    let workers = || vec![worker("us"), eu.clone(), busy(cuda("full", 1), 5), cuda("free", 1)];
    let high = RoutingTask { priority: Priority::High, ..RoutingTask::default() };
    assert_eq!(route(&script, &question(high, workers())), "free");
    let gdpr = RoutingTask { compliance: Some("gdpr".to_owned()), ..RoutingTask::default() };
    assert_eq!(route(&script, &question(gdpr.clone(), workers())), "eu");
    assert_eq!(route(&script, &question(gdpr, vec![worker("us")])), "refused: No EU workers available");
    let turns: Vec<_> =
        (0..5).map(|_| route(&script, &question(RoutingTask::default(), workers()))).collect();
    assert_eq!(turns, ["us", "eu", "full", "free", "us"]);
}

#[test]
fn the_guides_admission_script() {
    let script = example("admission");
    assert_eq!(admits(&script, 101, vec![worker("a")]), Answer::NotAdmitted);
    assert_eq!(admits(&script, 100, vec![worker("a")]), Answer::Admitted);
    assert_eq!(admits(&script, 0, Vec::new()), Answer::NotAdmitted);
    assert_eq!(admits(&script, 11, vec![busy(worker("a"), 1)]), Answer::NotAdmitted);
    assert_eq!(admits(&script, 10, vec![busy(worker("a"), 1)]), Answer::Admitted);
}

fn provider(id: &str, per_token: f64, region: &str, uptime: f64) -> RoutingProvider {
    RoutingProvider {
        id: id.to_owned(),
        pricing: ProviderPricing { per_token, ..ProviderPricing::default() },
        geo: ProviderGeo { region: region.to_owned(), ..ProviderGeo::default() },
        sla: ProviderSla { uptime, ..ProviderSla::default() },
        healthy: true,
        ..RoutingProvider::default()
    }
}

#[test]
fn the_guides_marketplace_script() {
    let script = example("marketplace");
    let with = |workers, providers| Question {
        providers: Arc::new(Providers(providers)),
        ..question(RoutingTask::default(), workers)
    };
    let providers = || {
        vec![
            provider("dear", 0.01, "EU", 0.999),
            provider("far", 0.0001, "US", 0.999),
            provider("shaky", 0.0001, "EU", 0.9),
            provider("good", 0.0005, "EU", 0.999),
            provider("best", 0.0002, "EU", 0.995),
        ]
    };
    assert_eq!(route(&script, &with(vec![busy(worker("a"), 1), worker("b")], providers())), "b");
    assert_eq!(route(&script, &with(vec![busy(worker("a"), 1)], providers())), "provider best");
    assert_eq!(route(&script, &with(Vec::new(), Vec::new())), "refused: No suitable providers");
}

/// The scripts of the cookbook: a heading, a `rhai` block, and a `json` block of cases.
#[test]
fn every_script_of_the_cookbook_does_what_it_says() {
    let docs = file("docs/routing.md");
    let mut scripts = 0;
    for part in docs.split("\n### ").skip(1) {
        let block = |language: &str| {
            let (_, rest) = part.split_once(&format!("```{language}\n"))?;
            rest.split_once("```").map(|(text, _)| text)
        };
        let (Some(text), Some(cases)) = (block("rhai"), block("json")) else { continue };
        let heading = part.lines().next().unwrap_or_default();
        let script = script(text);
        scripts += 1;
        let cases: Vec<serde_json::Value> =
            serde_json::from_str(cases).unwrap_or_else(|error| panic!("{heading}: {error}"));
        assert!(!cases.is_empty(), "{heading}");
        for case in cases {
            let part = |name: &str| case.get(name).cloned().unwrap_or(serde_json::json!({}));
            let list = |name: &str| case.get(name).cloned().unwrap_or(serde_json::json!([]));
            let question = Question {
                task: Task {
                    facts: Arc::new(serde_json::from_value(part("task")).unwrap()),
                    readers: Arc::default(),
                },
                queue_depth: case.get("queue_depth").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32,
                workers: Arc::new(Workers::Told(serde_json::from_value(list("workers")).unwrap())),
                providers: Arc::new(Providers(
                    serde_json::from_value(list("marketplace_providers")).unwrap(),
                )),
                is_trial: false,
            };
            let (answer, _) = super::ask(&script, &question, true, true);
            let answer = answer.unwrap_or_else(|fault| panic!("{heading}: {fault}"));
            assert_eq!(told(answer, &question), case["then"].as_str().unwrap(), "{heading}: {case}");
        }
    }
    assert!(scripts >= 10, "the cookbook has {scripts} scripts");
}

#[test]
fn lists_do_what_their_functions_say() {
    let workers = || {
        let fast = RoutingWorker { tokens_per_second: Some(90.0), ..busy(worker("fast"), 50) };
        let slow = RoutingWorker { tokens_per_second: Some(9.0), prefix_hit: 0.75, ..worker("slow") };
        vec![fast, slow, worker("unknown"), RoutingWorker { state: WorkerState::Stopped, ..worker("") }]
    };
    for (body, expected) in [
        ("workers", "any of fast slow unknown "),
        ("workers.take(2)", "any of fast slow"),
        ("workers.first()", "fast"),
        ("workers.last()", "start on node-of-"),
        ("workers[1]", "slow"),
        ("workers[-2]", "unknown"),
        ("workers.least_loaded()", "slow"),
        ("workers.filter(|w| w.id == \"none\").first()", "queue"),
        ("workers.filter(|w| w.id == \"none\")", "queue"),
        ("workers.max_by(|w| w.tokens_per_second)", "fast"),
        ("workers.min_by(|w| w.tokens_per_second)", "slow"),
        ("workers.max_by(|w| w.prefix_hit(task))", "slow"),
        ("workers.take(3).sort_by(|w| w.outstanding_tokens)", "any of slow unknown fast"),
        ("workers.take(3).sort_by(|a, b| a.id > b.id)", "any of unknown slow fast"),
        ("workers.take(3).sort_by(|a, b| a.id.len() - b.id.len())", "any of fast slow unknown"),
        ("let w = workers.map(|w| w); w.filter(|w| w.slots_available > 0)", "any of slow unknown "),
        ("for w in workers { if w.slots_available > 0 { return w; } }", "slow"),
        ("if workers.any(|w| w.state == \"busy\") { workers[0] } else { () }", "fast"),
        ("if workers.all(|w| w.slots_total == 1) { workers[2] } else { () }", "unknown"),
        ("if workers.len() == 4 && workers.len == 4 && !workers.is_empty() { workers[0] }", "fast"),
        ("error(`no ${workers.len()} for ${task.model}`)", "refused: no 4 for m"),
        ("error(\"without return\"); workers[0]", "refused: without return"),
        ("if task.tags.team == \"red\" && task.tags.other == () { workers[1] }", "slow"),
    ] {
        let script = script(&format!("fn route_task(task, workers) {{ {body} }}"));
        let task = RoutingTask { tags: [("team".to_owned(), "red".to_owned())].into(), ..of_model("m") };
        assert_eq!(route(&script, &question(task, workers())), expected, "{body}");
    }
    let random = script("fn route_task(task, workers) { workers.random() }");
    for _ in 0..50 {
        assert_ne!(
            route(&random, &question(of_model("m"), workers())),
            "start on node-of-",
            "what serves comes first"
        );
    }
}

#[test]
fn what_is_no_script_is_told_with_its_place() {
    for (text, message, line) in [
        ("fn route_task(task, workers) {\n  return workers.first(;\n}", "", Some(2)),
        ("let x = 1;", "neither", None),
        ("fn route_task(task) { 1 }", "route_task must be defined once", None),
        ("fn should_admit(task) { true }", "should_admit must be defined once", None),
        ("fn route_task(task, workers) { eval(\"1\") }", "eval", Some(1)),
        ("import \"x\" as x; fn route_task(task, workers) { 1 }", "import", Some(1)),
        ("throw \"no\"; fn route_task(task, workers) { 1 }", "no", Some(1)),
    ] {
        let fault = Script::read(text).unwrap_err();
        assert!(fault.message.contains(message), "{text}: {fault}");
        assert_eq!(fault.line, line, "{text}: {fault}");
    }
    assert!(Script::read(&" ".repeat(300_000)).unwrap_err().message.contains("300000 bytes"));
}

/// Each is a fault of its own, told with the line, and none takes longer than its time.
#[test]
fn a_script_cannot_do_harm() {
    for (body, message) in [
        ("loop {}", "more than 50 ms"),
        ("let x = []; loop { x.push(1); }", ""),
        ("let x = \"a\"; loop { x += x; }", "too large"),
        ("let x = #{}; let i = 0; loop { x[`${i}`] = i; i += 1; }", ""),
        ("route_task(task, workers)", "overflow"),
        ("loop { workers.sort_by(|a, b| a.id.len() < b.id.len()); }", "more than 50 ms"),
        ("let x = [1]; loop { x = [x, x]; }", ""),
        ("workers.filter(|w| 1)", "true or false"),
        ("workers.filter(|w| w.nothing)", "nothing"),
        ("workers.sort_by(|w| [])", "a number or a text"),
        ("let w = workers.first(); w.id = \"x\"", ""),
        ("workers.filter(|w| w.id != workers[0].id)", "into a variable first"),
        ("workers[99]", "out of bounds"),
        ("open_file(\"/etc/passwd\")", "not found"),
        ("sleep(10)", "not found"),
        ("42", "must return a worker"),
        ("throw \"mine\"", "mine"),
        ("let a = 9223372036854775807; a + 1", "overflow"),
        ("1 / 0", "zero"),
    ] {
        let script = script(&format!("fn route_task(task, workers) {{ {body} }}"));
        let workers: Vec<_> = (0..20).map(|number| worker(&format!("w{number}"))).collect();
        let began = std::time::Instant::now();
        let (answer, _) = script.route(&question(RoutingTask::default(), workers));
        let fault = answer.map(|answer| format!("{body}: {answer:?}")).unwrap_err();
        assert!(fault.message.to_lowercase().contains(message), "{body}: {fault}");
        assert!(began.elapsed() < TIME * 10, "{body} took {:?}", began.elapsed());
    }
}

#[test]
fn what_a_script_did_is_known() {
    let script = script(
        "fn route_task(task, workers) {\n let free = workers.filter(|w| w.slots_available > 0);\n log_info(`free: ${free}`);\n free.least_loaded()\n}",
    );
    let workers = vec![busy(worker("a"), 1), worker("b"), worker("c")];
    let (_, trace) = script.route(&question(RoutingTask::default(), workers));
    let steps: Vec<_> =
        trace.steps.iter().map(|step| (&*step.step, step.line, step.from, &*step.to)).collect();
    assert_eq!(steps, [("filter", Some(2), 3, "2"), ("least_loaded", Some(4), 2, "b")]);
    assert_eq!(trace.notes, ["info: free: 2 of 3"]);
}

#[test]
fn constants_outside_of_functions_are_there() {
    let script =
        script("const MOST = 2;\nfn should_admit(task, queue_depth, workers) { queue_depth < global::MOST }");
    assert_eq!(admits(&script, 1, Vec::new()), Answer::Admitted);
    assert_eq!(admits(&script, 2, Vec::new()), Answer::NotAdmitted);
}

#[test]
fn simple_closures_need_no_interpreter() {
    for closure in [
        "|w| w.backend == \"cuda\"",
        "|w| w.gpus > 1 && !(w.state == \"busy\")",
        "|w| w.slots_available >= least || w.region != \"EU\"",
        "|w| w.tokens_per_second < 3.5",
    ] {
        let text = format!("fn route_task(task, workers) {{ let least = 1; workers.filter({closure}) }}");
        let ast = super::engine::ENGINE.compile(&text).unwrap();
        let rules = Rules::of(&ast);
        let closures = ast.iter_functions().filter(|function| function.name.starts_with("anon$"));
        for function in closures {
            assert!(rules.is_simple(function.name), "{closure}");
        }
    }
}

fn comparison() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "w.id",
        "w.gpus",
        "w.slots_available",
        "w.tokens_per_second",
        "w.device",
        "w.backend",
        "w.state",
    ]);
    let value = prop::sample::select(vec![
        "\"cuda\"", "\"idle\"", "\"w1\"", "0", "1", "2", "0.5", "1.0", "-1", "most", "name", "true", "()",
    ]);
    let sign = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    (field, sign, value, any::<bool>()).prop_map(|(field, sign, value, is_turned)| {
        if is_turned { format!("{value} {sign} {field}") } else { format!("{field} {sign} {value}") }
    })
}

fn condition() -> impl Strategy<Value = String> {
    comparison().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) && ({other})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) || ({other})")),
            inner.prop_map(|one| format!("!({one})")),
        ]
    })
}

fn any_worker() -> impl Strategy<Value = RoutingWorker> {
    (0..3_u32, 0..3_u32, prop::option::of(0.0..2.0_f64), prop::option::of(0..2_u32), any::<bool>()).prop_map(
        |(gpus, slots_available, tokens_per_second, device, is_cuda)| RoutingWorker {
            gpus,
            slots_available,
            tokens_per_second,
            device,
            backend: if is_cuda { Backend::Cuda } else { Backend::Cpu },
            ..worker(&format!("w{gpus}"))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A closure means the same whether it is read or run: two statements are always run.
    #[test]
    fn a_rule_is_what_its_closure_is(condition in condition(), workers in prop::collection::vec(any_worker(), 0..6)) {
        let with = |closure: &str| {
            script(&format!("fn route_task(task, workers) {{ let most = 1; let name = \"cuda\"; workers.filter({closure}) }}"))
        };
        let (read, run) = (with(&format!("|w| {condition}")), with(&format!("|w| {{ let it = {condition}; it }}")));
        let question = question(RoutingTask::default(), workers);
        let (read, run) = (read.route(&question).0, run.route(&question).0);
        prop_assert_eq!(read.ok(), run.ok(), "{}", condition);
    }
}
