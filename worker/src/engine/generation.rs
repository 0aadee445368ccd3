//! A request while it runs: its choices, its receiver, and what it consumed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocol::ApiError;
use protocol::events::{FinishReason, Prompt, Timings, TokenLogprob, TokenUsage};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::engine::memory::Reuse;
use crate::engine::output::Output;
use crate::engine::sequence::{Sequence, State};
use crate::engine::{Event, Finish, SlotGuard, logprobs};
use crate::text::answer::AnswerPlan;
use crate::text::constraint::Grammar;
use crate::text::sampler::{Sampler, Sampling};
use crate::text::vocabulary::Vocabulary;

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Job {
    /// The prompt, at least one token; it and the most tokens of an answer fit the context together.
    pub prompt: Vec<u32>,
    /// Answers to generate, at least one.
    pub choices: u32,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// How tokens are chosen, and which log probabilities are told.
    pub sampling: Sampling,
    /// What the answer must be.
    pub grammar: Option<Arc<Grammar>>,
    /// How answers are read: what ends them, and what in them is thought and what calls.
    pub plan: Arc<AnswerPlan>,
    /// The prompt's text, if it is to be told first, with its tokens' log probabilities if those are wanted.
    pub echo: Option<String>,
    /// Where the events go. A closed channel cancels; a full one makes this generation wait, and no other.
    pub events: mpsc::Sender<Event>,
    /// Cancels within one step.
    pub cancel: CancellationToken,
    /// Whether nobody waits for it in person.
    pub is_patient: bool,
    /// The slot that the generation holds until it ends.
    pub slot: SlotGuard,
    /// When the request came.
    pub accepted: Instant,
}

/// A running request.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) choices: Vec<Sequence>,
    pub(super) is_patient: bool,
    prompt_tokens: usize,
    /// Tokens of the prompt that were there already, once that is known.
    cached_tokens: Option<usize>,
    echo: Option<Echo>,
    events: mpsc::Sender<Event>,
    outbox: VecDeque<Event>,
    cancel: CancellationToken,
    /// Nothing once it has ended, although its last events may still wait for a slow reader.
    slot: Option<SlotGuard>,
    accepted: Instant,
    first_token: Option<Instant>,
}

/// The prompt on its way back.
#[derive(Debug)]
struct Echo {
    text: String,
    /// How many likely tokens to tell for each token, if log probabilities are wanted.
    top: Option<usize>,
    logprobs: Vec<TokenLogprob>,
}

impl Generation {
    pub(super) fn new(job: Job, vocabulary: &Arc<Vocabulary>) -> Self {
        let choices = (0..job.choices)
            .map(|choice| {
                let state = if choice == 0 { State::Active } else { State::AwaitsPrompt };
                let output = Output::new(choice, vocabulary.clone(), job.plan.clone());
                let guide = job.grammar.as_ref().map(|grammar| grammar.guide());
                let sampler =
                    Sampler::new(job.sampling.clone(), choice, &job.prompt, vocabulary.ends(), guide);
                Sequence::new(&job.prompt, state, job.max_tokens, sampler, output)
            })
            .collect();
        let top = job.sampling.logprobs;
        let mut generation = Self {
            choices,
            is_patient: job.is_patient,
            prompt_tokens: job.prompt.len(),
            cached_tokens: None,
            echo: job.echo.map(|text| Echo { text, top, logprobs: Vec::new() }),
            events: job.events,
            outbox: VecDeque::new(),
            cancel: job.cancel,
            slot: Some(job.slot),
            accepted: job.accepted,
            first_token: None,
        };
        if let Some(echo) = generation.echo.take_if(|echo| echo.top.is_none()) {
            generation.outbox.push_back(Event::Prompt(Prompt { text: echo.text, logprobs: Vec::new() }));
        }
        if job.max_tokens == 0 && generation.echo.is_none() {
            generation.end_all(FinishReason::Length);
        }
        generation
    }

    /// Whether it takes part in steps: it has not ended, and its reader keeps up.
    pub(super) fn is_running(&self) -> bool {
        self.slot.is_some() && self.outbox.is_empty()
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        self.events.is_closed() || (self.slot.is_none() && self.outbox.is_empty())
    }

    /// Whether its choices may begin with what others computed.
    pub(super) fn reuse(&self) -> Reuse {
        if self.echo.is_some() { Reuse::Refused } else { Reuse::Allowed }
    }

    /// Whether the logits of all of a choice's next tokens are wanted, for the prompt's log probabilities.
    pub(super) fn wants_all_logits(&self, choice: usize) -> bool {
        choice == 0 && self.echo.is_some()
    }

    /// Notes how many tokens of the prompt were there already when it began.
    pub(super) fn note_cached(&mut self, tokens: usize) {
        // What it finds after a preemption it computed itself.
        self.cached_tokens.get_or_insert(tokens);
    }

    /// Ends the generation if its caller asked for that, and delivers what waits for a slow reader.
    pub(super) fn attend_to_caller(&mut self) {
        if self.cancel.is_cancelled() && self.slot.is_some() {
            self.end_all(FinishReason::Cancelled);
        }
        self.flush();
    }

    /// Takes all logits of a chunk of the prompt, which begins at `position`.
    pub(super) fn note_prompt_logits(&mut self, position: usize, rows: &[f32], vocabulary: &Vocabulary) {
        let Some(echo) = &mut self.echo else { return };
        let prompt = &self.choices[0].tokens()[..self.prompt_tokens];
        let top = echo.top.unwrap_or(0);
        if echo.logprobs.is_empty() {
            echo.logprobs.push(logprobs::of_prompt(None, prompt[0], 0, vocabulary));
        }
        for (index, row) in rows.chunks_exact(vocabulary.size()).enumerate() {
            let told = echo.logprobs.len();
            // A prompt that was preempted is computed again, but told once.
            if told == position + index + 1
                && let Some(token) = prompt.get(told)
            {
                echo.logprobs.push(logprobs::of_prompt(Some(row), *token, top, vocabulary));
            }
        }
        if echo.logprobs.len() == self.prompt_tokens
            && let Some(Echo { text, logprobs, .. }) = self.echo.take()
        {
            self.outbox.push_back(Event::Prompt(Prompt { text, logprobs }));
        }
    }

    /// Takes the logits after the last token of a choice.
    pub(super) fn advance(&mut self, choice: usize, logits: &mut [f32], vocabulary: &Vocabulary) {
        self.first_token.get_or_insert_with(Instant::now);
        if let Err(error) = self.choices[choice].advance(logits, vocabulary, &mut self.outbox) {
            self.fail(error);
        }
    }

    /// Ends the generation if all its choices have, and sends what the reader has room for.
    pub(super) fn settle(&mut self) {
        let has_ended = |choice: &Sequence| matches!(choice.state, State::Ended(_));
        if self.slot.is_some() && self.choices.iter().all(has_ended) {
            let finish = self.finish();
            self.end_with(Event::Finished(finish));
        }
        self.flush();
    }

    /// Ends all choices that have not ended.
    pub(super) fn end_all(&mut self, reason: FinishReason) {
        for choice in &mut self.choices {
            choice.end(reason, &mut self.outbox);
        }
        self.settle();
    }

    fn finish(&self) -> Finish {
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let sum = |count: fn(&Sequence) -> usize| self.choices.iter().map(count).sum::<usize>() as u32;
        Finish {
            reasons: self.choices.iter().map(Sequence::reason).collect(),
            stop_sequences: self.choices.iter().map(Sequence::stop_sequence).collect(),
            usage: TokenUsage {
                prompt_tokens: self.prompt_tokens as u32,
                completion_tokens: sum(Sequence::generated),
                cached_tokens: self.cached_tokens.unwrap_or(0) as u32,
                reasoning_tokens: sum(Sequence::reasoning_tokens),
            },
            timings: Timings {
                prefill_ms: (first_token - self.accepted).as_secs_f64() * 1e3,
                decode_ms: (now - first_token).as_secs_f64() * 1e3,
            },
        }
    }

    /// Ends the generation with an error.
    pub(super) fn fail(&mut self, error: ApiError) {
        if self.slot.is_some() {
            for choice in &mut self.choices {
                choice.state = State::Ended(FinishReason::Cancelled);
            }
            self.end_with(Event::Failed(error));
        }
    }

    fn end_with(&mut self, event: Event) {
        self.outbox.push_back(event);
        // Before the event goes out: whoever reads it may send the next request at once.
        self.slot = None;
        self.flush();
    }

    /// Sends what the reader has room for. Events of a reader that is gone are dropped with the generation.
    fn flush(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.outbox.push_front(event);
                return;
            }
        }
    }
}
