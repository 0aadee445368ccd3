//! The loop over a model that reads back what it wrote into its blocks: whatever a block wrongly shared, lost or
//! overwritten would hold shows in the answers.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use candle_core::quantized::gguf_file::Value;
use proptest::prelude::*;
use protocol::events::FinishReason;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{BlockId, Engine, Event, Finish, Slots, blocks_for};
use crate::file::gguf::Header;
use crate::file::gguf::tests::with_pairs;
use crate::text::sampler::{Next, Sampler, Sampling, log_probabilities};

const WIDTH: usize = 128;
const SLOTS: u32 = 8;
/// A prompt that holds it fails.
const POISON: u32 = 1;

/// Draws each row of logits from all tokens of its sequence, as they lie in the blocks.
struct Paged {
    blocks: HashMap<BlockId, [u32; BLOCK_TOKENS]>,
    blocks_max: usize,
    budget: usize,
    /// Tokens of prompts in the largest step so far.
    largest: Arc<std::sync::atomic::AtomicUsize>,
    /// Sequences in the fullest step so far.
    fullest: usize,
}

impl Paged {
    fn new(blocks_max: usize, budget: usize) -> Self {
        Self { blocks: HashMap::new(), blocks_max, budget, largest: Arc::default(), fullest: 0 }
    }
}

/// The row of logits after these tokens.
fn row_after(tokens: &[u32]) -> Vec<f32> {
    let mix = |bits: u64| (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seen = tokens.iter().fold(7, |seen: u64, token| mix(seen.wrapping_add(u64::from(*token) + 1)));
    let logit = |id: u64| (mix(mix(seen.wrapping_add(id))) >> 40) as f32 / (1 << 22) as f32;
    let mut row: Vec<f32> = (0..WIDTH as u64).map(logit).collect();
    row[POISON as usize] = f32::NEG_INFINITY;
    row
}

impl Model for Paged {
    fn vocabulary_size(&self) -> usize {
        WIDTH
    }

    fn block_bytes(&self) -> usize {
        1
    }

    fn blocks_max(&self) -> usize {
        self.blocks_max
    }

    fn prefill_tokens(&self) -> usize {
        self.budget
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, tokens: usize) -> Result<(), StepError> {
        assert!(tokens > 0 && tokens < BLOCK_TOKENS && from != to);
        let content = self.blocks[&from];
        self.blocks.entry(to).or_insert([0; BLOCK_TOKENS])[..tokens].copy_from_slice(&content[..tokens]);
        Ok(())
    }

    fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        if spans.iter().any(|span| span.tokens.contains(&POISON)) {
            return Err(StepError::Batch("poison".to_owned()));
        }
        self.fullest = self.fullest.max(spans.len());
        let mut written = HashSet::new();
        for span in spans {
            assert!(span.blocks.len() >= blocks_for(span.position + span.tokens.len()));
            for (index, token) in span.tokens.iter().enumerate() {
                let position = span.position + index;
                let (block, place) = (span.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
                assert!((block.0 as usize) < self.blocks_max);
                assert!(written.insert((block, place)), "two sequences write to one place");
                self.blocks.entry(block).or_insert([0; BLOCK_TOKENS])[place] = *token;
            }
        }
        let prompts: usize = spans.iter().map(|span| span.tokens.len()).filter(|tokens| *tokens > 1).sum();
        self.largest.fetch_max(prompts, std::sync::atomic::Ordering::Relaxed);
        logits.clear();
        for span in spans {
            let tokens = span.position + span.tokens.len();
            let content: Vec<u32> =
                span.blocks.iter().flat_map(|block| self.blocks[block]).take(tokens).collect();
            for end in tokens - span.logits.rows(span.tokens.len())..tokens {
                logits.extend(row_after(&content[..=end]));
            }
        }
        Ok(())
    }
}

fn vocabulary() -> Arc<Vocabulary> {
    let tokens = (0..WIDTH as u8).map(|byte| Value::String(char::from(byte).to_string())).collect();
    let file = with_pairs(&[
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.eos_token_id", Value::U32(u32::from(b'z'))),
    ]);
    Arc::new(Vocabulary::read(Header::read(&file).unwrap().metadata(&file)).unwrap())
}

/// What is asked, in short.
#[derive(Debug, Clone)]
struct Ask {
    prompt: Vec<u32>,
    choices: u32,
    max_tokens: usize,
    temperature: f32,
    is_patient: bool,
    room: usize,
}

impl Ask {
    fn new(prompt: impl IntoIterator<Item = u32>, max_tokens: usize) -> Self {
        Self {
            prompt: prompt.into_iter().collect(),
            choices: 1,
            max_tokens,
            temperature: 0.0,
            is_patient: false,
            room: 4096,
        }
    }

    fn sampling(&self) -> Sampling {
        // Ends of turn would make most answers short.
        Sampling { temperature: self.temperature, seed: 3, ignore_eos: true, ..Sampling::default() }
    }

    fn job(&self, slots: &Slots) -> (Job, Caller) {
        let (events, receiver) = mpsc::channel(self.room);
        let cancel = CancellationToken::new();
        let job = Job {
            prompt: self.prompt.clone(),
            choices: self.choices,
            max_tokens: self.max_tokens,
            sampling: self.sampling(),
            grammar: None,
            plan: Arc::default(),
            echo: None,
            events,
            cancel: cancel.clone(),
            is_patient: self.is_patient,
            slot: slots.take().unwrap(),
            accepted: Instant::now(),
        };
        let texts = vec![String::new(); self.choices as usize];
        (job, Caller { receiver, cancel, texts, prompt: None, last: None })
    }

    /// What the choices are, computed one by one without any engine.
    fn expected(&self) -> Vec<String> {
        let vocabulary = vocabulary();
        let answer = |choice| {
            let mut sampler = Sampler::new(self.sampling(), choice, &self.prompt, vocabulary.ends(), None);
            let mut tokens = self.prompt.clone();
            let mut bytes = Vec::new();
            for _ in 0..self.max_tokens {
                let Next::Token(chosen) = sampler.next(&mut row_after(&tokens)).unwrap() else { break };
                tokens.push(chosen.token);
                vocabulary.append_bytes(chosen.token, &mut bytes);
            }
            String::from_utf8(bytes).unwrap()
        };
        (0..self.choices).map(answer).collect()
    }
}

/// Who asked, and what came so far.
struct Caller {
    receiver: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    texts: Vec<String>,
    prompt: Option<protocol::events::Prompt>,
    last: Option<Event>,
}

impl Caller {
    fn read(&mut self) {
        while let Ok(event) = self.receiver.try_recv() {
            self.take(event);
        }
    }

    fn wait(&mut self) {
        while let Some(event) = self.receiver.blocking_recv() {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        assert!(self.last.is_none(), "{event:?} after the last event");
        match event {
            Event::Token(token) => self.texts[token.choice as usize].push_str(&token.token),
            Event::Prompt(prompt) => self.prompt = Some(prompt),
            event => self.last = Some(event),
        }
    }

    fn finish(&self) -> &Finish {
        match &self.last {
            Some(Event::Finished(finish)) => finish,
            other => panic!("{other:?}"),
        }
    }
}

/// A loop that the test turns by hand.
struct Hand {
    step_loop: StepLoop<Paged>,
    slots: Slots,
    board: Arc<Board>,
}

impl Hand {
    fn new(blocks: usize, budget: usize, idle_max: u64) -> Self {
        let (_, commands) = sync_channel(1);
        let board = Arc::new(Board::default());
        let model = Paged::new(blocks, budget);
        let step_loop = StepLoop::new(model, vocabulary(), commands, SLOTS, idle_max, board.clone());
        Self { step_loop, slots: Slots::new(256), board }
    }

    fn start(&mut self, ask: &Ask) -> Caller {
        let (job, caller) = ask.job(&self.slots);
        self.step_loop.start(job);
        caller
    }

    fn turn(&mut self) {
        self.step_loop.turn().unwrap();
    }

    /// Turns until nothing runs, and reads what came.
    fn finish(&mut self, callers: &mut [Caller]) {
        for turns in 0.. {
            callers.iter_mut().for_each(Caller::read);
            if self.step_loop.generations.is_empty() {
                return;
            }
            assert!(turns < 20_000, "it never ends");
            self.turn();
        }
    }

    fn answer(&mut self, ask: &Ask) -> Caller {
        let mut callers = [self.start(ask)];
        self.finish(&mut callers);
        let [caller] = callers;
        caller
    }
}

fn prompt(length: u32) -> impl Iterator<Item = u32> {
    (0..length).map(|index| 40 + index * 7 % 50)
}

#[test]
fn a_prompt_that_began_before_is_not_computed_again_and_changes_nothing() {
    let mut hand = Hand::new(64, 48, 64);
    let ask = Ask::new(prompt(100), 20);
    let cold = hand.answer(&ask);
    assert_eq!(cold.texts, ask.expected());
    assert_eq!(cold.finish().usage.cached_tokens, 0);
    let warm = hand.answer(&ask);
    assert_eq!(warm.texts, ask.expected());
    assert_eq!(warm.finish().usage.cached_tokens, 96);
    // The answer is known too, as a conversation's next prompt finds it: 129 tokens, since the last one of an answer is
    // never computed.
    let longer = Ask::new(prompt(100), 30);
    let first = hand.answer(&longer);
    let further = Ask::new(prompt(100).chain(first.texts[0].bytes().map(u32::from)).chain(prompt(30)), 5);
    let answer = hand.answer(&further);
    assert_eq!(answer.texts, further.expected());
    assert_eq!(answer.finish().usage.cached_tokens, 128);
    // At least the last token is left to compute.
    let whole = Ask::new(prompt(96), 5);
    let answer = hand.answer(&whole);
    assert_eq!(answer.texts, whole.expected());
    assert_eq!(answer.finish().usage.cached_tokens, 64);
    let health = hand.board.health();
    assert_eq!((health.blocks_used, health.cached_tokens), (0, 96 + 96 + 128 + 64));
    assert_eq!(health.prompt_tokens, 100 + 100 + 100 + 160 + 96);
}

#[test]
fn nothing_is_kept_beyond_the_cache_budget() {
    for (idle_max, cached) in [(0, 0), (2, 64), (64, 96)] {
        let mut hand = Hand::new(64, 48, idle_max);
        let ask = Ask::new(prompt(100), 4);
        hand.answer(&ask);
        assert_eq!(hand.board.health().blocks_cached, idle_max.min(3));
        assert_eq!(hand.answer(&ask).finish().usage.cached_tokens, cached);
    }
}

#[test]
fn however_many_answers_are_wanted_few_compute_at_once() {
    let mut hand = Hand::new(512, 48, 64);
    let many = Ask { choices: 100, temperature: 1.0, ..Ask::new(prompt(70), 12) };
    let mut callers = [hand.start(&many), hand.start(&Ask::new(prompt(20), 12)), hand.start(&many)];
    hand.finish(&mut callers);
    assert_eq!(callers[0].texts, many.expected());
    assert_eq!(callers[1].texts, Ask::new(prompt(20), 12).expected());
    assert_eq!(callers[2].texts, many.expected());
    let most = SLOTS as usize * SEQUENCES_PER_SLOT;
    // Every request's first answer computes in any case.
    assert!((most..most + 3).contains(&hand.step_loop.model.fullest), "{}", hand.step_loop.model.fullest);
    assert_eq!(hand.board.health().blocks_used, 0);
}

#[test]
fn choices_share_the_prompts_blocks_and_differ() {
    let mut hand = Hand::new(64, 256, 0);
    let ask = Ask { choices: 5, temperature: 1.0, ..Ask::new(prompt(200), 8) };
    let mut callers = [hand.start(&ask)];
    hand.turn();
    hand.turn();
    // Six full blocks together, and a partial one each.
    assert_eq!(hand.board.health().blocks_used, 6 + 5);
    hand.finish(&mut callers);
    assert_eq!(callers[0].texts, ask.expected());
    let different: HashSet<&String> = callers[0].texts.iter().collect();
    assert!(different.len() > 1);
    let finish = callers[0].finish();
    assert_eq!(finish.reasons, [FinishReason::Length; 5]);
    assert_eq!((finish.usage.prompt_tokens, finish.usage.completion_tokens), (200, 40));
    assert_eq!(hand.board.health().blocks_used, 0);
}

#[test]
fn a_short_prompt_is_through_beside_a_long_one() {
    let mut hand = Hand::new(256, 64, 0);
    let long = hand.start(&Ask::new(prompt(4000), 1));
    hand.turn();
    let mut short = hand.start(&Ask::new(prompt(20), 2));
    hand.turn();
    short.read();
    assert_eq!(short.texts[0].chars().count(), 1, "the first token comes in the first step");
    hand.turn();
    short.read();
    assert!(short.last.is_some());
    let mut callers = [long, short];
    hand.finish(&mut callers);
    assert_eq!(hand.step_loop.model.largest.load(std::sync::atomic::Ordering::Relaxed), 64);
}

#[test]
fn a_patient_prompt_makes_the_steps_of_others_hardly_longer() {
    let mut hand = Hand::new(256, 512, 0);
    let largest = hand.step_loop.model.largest.clone();
    let largest = || largest.swap(0, std::sync::atomic::Ordering::Relaxed);
    let mut awaited = hand.start(&Ask::new(prompt(20), 12));
    hand.turn();
    let patient = hand.start(&Ask { is_patient: true, ..Ask::new(prompt(4000), 1) });
    largest();
    while awaited.last.is_none() {
        hand.turn();
        awaited.read();
        assert!(largest() <= BLOCK_TOKENS, "a step is longer than a part");
    }
    assert!(
        hand.step_loop.generations[0].choices[0].computed >= 10 * BLOCK_TOKENS,
        "it goes on in each step"
    );
    hand.turn();
    assert_eq!(largest(), 512, "alone it has the whole budget");
    hand.finish(&mut [patient]);
}

#[test]
fn without_memory_for_both_the_younger_waits_and_loses_nothing() {
    let mut hand = Hand::new(8, 64, 8);
    let asks = [Ask::new(prompt(90), 120), Ask::new(prompt(70), 150)];
    let mut callers: Vec<Caller> = asks.iter().map(|ask| hand.start(ask)).collect();
    hand.finish(&mut callers);
    for (ask, caller) in asks.iter().zip(&callers) {
        assert_eq!(caller.texts, ask.expected());
        assert_eq!(caller.finish().usage.cached_tokens, 0, "what it computed itself before is no gift");
    }
    assert!(hand.board.health().preemptions > 0);
}

#[test]
fn a_reader_that_never_reads_holds_no_memory_against_others() {
    let mut hand = Hand::new(8, 64, 8);
    let mut slow = [hand.start(&Ask { room: 2, ..Ask::new(prompt(90), 120) })];
    (0..20).for_each(|_| hand.turn());
    let ask = Ask::new(prompt(130), 120);
    let mut other = hand.start(&ask);
    for _ in 0..200 {
        hand.turn();
    }
    other.read();
    assert_eq!(other.texts, ask.expected());
    hand.finish(&mut slow);
    assert_eq!(slow[0].texts, Ask::new(prompt(90), 120).expected());
}

#[test]
fn a_prompts_log_probabilities_are_those_of_its_rows() {
    let vocabulary = vocabulary();
    for cached in [false, true] {
        let mut hand = Hand::new(64, 48, 64);
        let ask = Ask::new(prompt(100), 3);
        if cached {
            hand.answer(&ask);
        }
        let (mut job, caller) = ask.job(&hand.slots);
        job.echo = Some("the prompt".to_owned());
        job.sampling.logprobs = Some(2);
        hand.step_loop.start(job);
        let mut callers = [caller];
        hand.finish(&mut callers);
        assert_eq!(callers[0].texts, ask.expected());
        let prompt = callers[0].prompt.as_ref().unwrap();
        assert_eq!(prompt.text, "the prompt");
        assert_eq!(prompt.logprobs.len(), 100);
        assert_eq!(prompt.logprobs[0].token.logprob, None);
        for (index, told) in prompt.logprobs.iter().enumerate().skip(1) {
            let row = log_probabilities(&row_after(&ask.prompt[..index]), ask.prompt[index], 2);
            assert_eq!(told.token.id, ask.prompt[index]);
            assert_eq!(told.token.logprob, row.logprob);
            assert_eq!(
                told.top.iter().map(|likely| likely.id).collect::<Vec<_>>(),
                [row.top[0].0, row.top[1].0]
            );
            let mut bytes = Vec::new();
            vocabulary.append_bytes(told.token.id, &mut bytes);
            assert_eq!(told.token.bytes, bytes);
        }
    }
}

#[test]
fn a_failed_step_ends_its_sequences_and_not_the_engine() {
    let mut hand = Hand::new(64, 64, 64);
    let failed = hand.answer(&Ask::new([50, POISON], 20));
    assert!(matches!(failed.last, Some(Event::Failed(error)) if error.code == ErrorCode::Internal));
    let ask = Ask::new([50], 4);
    assert_eq!(hand.answer(&ask).texts, ask.expected());
    assert_eq!(hand.slots.available(), 256);
}

/// Starts the engine's thread with four slots.
fn thread() -> (Engine, Slots, tokio::sync::oneshot::Receiver<Result<(), ApiError>>) {
    let (engine, ended) = Engine::start(Paged::new(16, 3), vocabulary(), 4, 16).unwrap();
    (engine, Slots::new(4), ended)
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
    let (engine, slots, _ended) = thread();
    let ask = Ask { room: 1, ..Ask::new(prompt(5), 20) };
    let (job, mut slow) = ask.job(&slots);
    engine.submit(job).unwrap();
    let (job, mut quick) = Ask { room: 64, ..ask.clone() }.job(&slots);
    engine.submit(job).unwrap();
    quick.wait();
    assert_eq!(quick.texts, ask.expected());
    slow.wait();
    assert_eq!(slow.texts, ask.expected());
    assert_eq!(slots.available(), 4);
}

#[test]
fn cancelling_and_leaving_free_the_slot() {
    let (engine, slots, _ended) = thread();
    let (job, mut caller) = Ask { room: 1, ..Ask::new(prompt(5), 400) }.job(&slots);
    engine.submit(job).unwrap();
    caller.cancel.cancel();
    caller.wait();
    assert_eq!(caller.finish().reasons, [FinishReason::Cancelled]);
    let (job, caller) = Ask { room: 1, ..Ask::new(prompt(5), 400) }.job(&slots);
    engine.submit(job).unwrap();
    drop(caller);
    while slots.available() < 4 {
        std::thread::yield_now();
    }
}

#[test]
fn stopping_fails_what_runs() {
    let (engine, slots, ended) = thread();
    let (job, mut caller) = Ask { room: 1, ..Ask::new(prompt(5), 400) }.job(&slots);
    engine.submit(job).unwrap();
    engine.stop();
    assert!(ended.blocking_recv().unwrap().is_ok());
    caller.wait();
    // A reader with no room for the error finds its channel closed instead.
    if let Some(last) = caller.last {
        assert!(matches!(last, Event::Failed(error) if error.code == ErrorCode::WorkerShuttingDown));
    }
}

/// A request of a random history.
#[derive(Debug, Clone)]
struct Visit {
    ask: Ask,
    arrives: usize,
    /// Reads only every so many turns.
    reads_every: usize,
    /// Gives up after so many turns, by a cancel or by leaving.
    gives_up: Option<(usize, bool)>,
}

fn visits() -> impl Strategy<Value = Vec<Visit>> {
    // Prompts are beginnings of three texts, so that many begin alike.
    let prompt = (0u32..3, 1usize..150)
        .prop_map(|(text, length)| (0..length as u32).map(|index| 33 + (index * (text + 1)) % 80).collect());
    let ask = (prompt, 1u32..4, 0usize..60, prop::bool::ANY, prop::bool::ANY, 1usize..80).prop_map(
        |(prompt, choices, max_tokens, greedy, is_patient, room): (Vec<u32>, _, _, _, _, _)| Ask {
            prompt,
            choices,
            max_tokens,
            temperature: if greedy { 0.0 } else { 1.0 },
            is_patient,
            room,
        },
    );
    let gives_up = prop::option::weighted(0.3, (0usize..40, prop::bool::ANY));
    let visit = (ask, 0usize..60, 1usize..20, gives_up)
        .prop_map(|(ask, arrives, reads_every, gives_up)| Visit { ask, arrives, reads_every, gives_up });
    prop::collection::vec(visit, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_histories_answer_as_if_each_were_alone_and_leak_nothing(
        visits in visits(), blocks in 7usize..24, budget in 1usize..90, idle_max in 0u64..24,
    ) {
        let mut hand = Hand::new(blocks, budget, idle_max);
        let mut callers: Vec<Option<Caller>> = visits.iter().map(|_| None).collect();
        for turn in 0.. {
            for (visit, caller) in visits.iter().zip(&mut callers) {
                if turn == visit.arrives {
                    *caller = Some(hand.start(&visit.ask));
                }
                if let Some(present) = caller {
                    if turn % visit.reads_every == 0 {
                        present.read();
                    }
                    match visit.gives_up {
                        Some((turns, true)) if turn == visit.arrives + turns => present.cancel.cancel(),
                        Some((turns, false)) if turn == visit.arrives + turns => *caller = None,
                        _ => {}
                    }
                }
            }
            if turn > 60 && hand.step_loop.generations.is_empty() {
                break;
            }
            prop_assert!(turn < 20_000, "it never ends");
            hand.turn();
            let memory = &hand.step_loop.memory;
            prop_assert!(memory.held() + memory.idle() <= blocks);
            prop_assert!(memory.idle() as u64 <= idle_max);
        }
        prop_assert_eq!(hand.slots.available(), 256);
        prop_assert_eq!(hand.step_loop.memory.held(), 0);
        for (visit, caller) in visits.iter().zip(&mut callers) {
            let Some(caller) = caller else { continue };
            caller.read();
            let expected = visit.ask.expected();
            let reasons = &caller.finish().reasons;
            for ((text, expected), reason) in caller.texts.iter().zip(&expected).zip(reasons) {
                if *reason == FinishReason::Cancelled {
                    prop_assert!(expected.starts_with(text.as_str()));
                } else {
                    prop_assert_eq!(text, expected);
                }
            }
            let cancelled = reasons.contains(&FinishReason::Cancelled);
            prop_assert!(!cancelled || matches!(visit.gives_up, Some((_, true))));
        }
    }
}
