//! A compiled grammar, and an answer's way through it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use protocol::{ApiError, ErrorCode};

use crate::text::constraint::{STACK_BYTES, first_line};

/// Threads that compute masks.
const MASK_THREADS: usize = 4;

/// A compiled grammar.
pub struct Grammar {
    start: Box<Walk>,
    bytes: usize,
    masks: Masks,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Grammar {
    /// A grammar whose texts `matcher` accepts; `bytes` is what it takes in memory.
    pub fn new(matcher: Matcher, bytes: usize, masks: &Masks) -> Result<Self, String> {
        let mut start = Box::new(Walk { matcher, ahead: Ahead::Over });
        start.look_ahead();
        match &start.ahead {
            Ahead::Mask(_) => Ok(Self { start, bytes, masks: masks.clone() }),
            Ahead::Over => Err("it allows nothing but the empty text".to_owned()),
            Ahead::Failed(error) => Err(error.clone()),
        }
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The way of a new answer. It shares nothing with other answers: what one costs does not depend on the others.
    pub fn guide(&self) -> Guide {
        Guide { place: Place::Here(self.start.fork()), over: false, masks: self.masks.clone() }
    }
}

/// An answer's way through a grammar.
pub struct Guide {
    place: Place,
    /// Whether the text was whole, and nothing can follow, when that was last told.
    over: bool,
    masks: Masks,
}

enum Place {
    Here(Box<Walk>),
    /// On a thread that takes its last token.
    Taking(Receiver<News>),
    /// On a thread that computes its next mask.
    Looking(Receiver<News>),
    /// Lost with a thread that panicked.
    Nowhere,
}

/// What a thread tells of a walk: first that it took a token, which is quick, then what may come next.
enum News {
    Taken { over: bool },
    Back(Box<Walk>),
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}

impl Guide {
    /// Rules out what may not come next.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ApiError> {
        match &self.walk()?.ahead {
            Ahead::Mask(mask) => {
                rule_out(mask.as_slice(), logits);
                Ok(())
            }
            Ahead::Over => {
                logits.fill(f32::NEG_INFINITY);
                Ok(())
            }
            Ahead::Failed(error) => Err(failed(error)),
        }
    }

    /// Goes on by a token that the mask allows. The next mask is computed while the caller does something else.
    pub fn accept(&mut self, token: u32) -> Result<(), ApiError> {
        self.walk()?;
        if let Place::Here(walk) = std::mem::replace(&mut self.place, Place::Nowhere) {
            self.place = Place::Taking(self.masks.advance(walk, token)?);
        }
        Ok(())
    }

    /// Whether the text is whole and nothing can follow. It does not wait for the next mask.
    pub fn is_over(&mut self) -> bool {
        if let Place::Taking(_) = self.place {
            self.hear();
        }
        self.over
    }

    fn walk(&mut self) -> Result<&Walk, ApiError> {
        while let Place::Taking(_) | Place::Looking(_) = self.place {
            self.hear();
        }
        match &self.place {
            Place::Here(walk) => Ok(walk),
            _ => Err(failed("the thread of its mask panicked")),
        }
    }

    /// Waits for the next news.
    fn hear(&mut self) {
        let (Place::Taking(news) | Place::Looking(news)) = std::mem::replace(&mut self.place, Place::Nowhere)
        else {
            return;
        };
        self.place = match news.recv() {
            Ok(News::Taken { over }) => {
                self.over = over;
                Place::Looking(news)
            }
            Ok(News::Back(walk)) => Place::Here(walk),
            Err(_) => Place::Nowhere,
        };
    }
}

/// Sets the logits to -infinity whose bits are not set. Bits beyond the mask count as not set.
fn rule_out(mask: &[u32], logits: &mut [f32]) {
    for (index, logits) in logits.chunks_mut(32).enumerate() {
        match mask.get(index).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            bits => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    *logit = if bits >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}

fn failed(error: &str) -> ApiError {
    tracing::warn!(error, "an answer left its constraint's limits");
    let message = format!("The answer cannot go on within its constraint: {}.", first_line(error));
    ApiError::new(ErrorCode::Internal, message)
}

/// A place in a grammar, and what may come next there.
struct Walk {
    matcher: Matcher,
    ahead: Ahead,
}

enum Ahead {
    Mask(SimpleVob),
    /// The text is whole and nothing can follow.
    Over,
    Failed(String),
}

impl Walk {
    fn fork(&self) -> Box<Self> {
        let ahead = match &self.ahead {
            Ahead::Mask(mask) => Ahead::Mask(mask.clone()),
            Ahead::Over => Ahead::Over,
            Ahead::Failed(error) => Ahead::Failed(error.clone()),
        };
        Box::new(Self { matcher: self.matcher.deep_clone(), ahead })
    }

    /// Goes on by a token; true if nothing can follow.
    fn take(&mut self, token: u32) -> bool {
        match self.matcher.consume_token(token) {
            Ok(()) if self.is_whole() => self.ahead = Ahead::Over,
            // The mask is the last place's until the next is computed.
            Ok(()) => {}
            Err(error) => self.ahead = Ahead::Failed(format!("{error:#}")),
        }
        matches!(self.ahead, Ahead::Over)
    }

    fn is_whole(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    fn holds_ends_only(&self, mask: &SimpleVob) -> bool {
        let Ok(environment) = self.matcher.tok_env() else { return false };
        let ends = environment.tok_trie().eos_tokens();
        mask.num_set() == ends.iter().filter(|end| mask.is_allowed(**end)).count()
    }

    /// Finds what may come next.
    fn look_ahead(&mut self) {
        let accepting = self.matcher.is_accepting().unwrap_or(false);
        self.ahead = if self.is_whole() {
            Ahead::Over
        } else {
            match self.matcher.compute_mask() {
                Ok(mask) if accepting && self.holds_ends_only(&mask) => Ahead::Over,
                Ok(mask) => Ahead::Mask(mask),
                // Where nothing may follow, not even an end of turn: the vocabulary has none.
                Err(_) if accepting && self.matcher.stop_reason() == StopReason::NoExtensionBias => {
                    Ahead::Over
                }
                Err(error) => Ahead::Failed(format!("{error:#}")),
            }
        };
    }
}

/// The threads that compute masks. They end when the last handle is gone.
#[derive(Clone)]
pub struct Masks {
    jobs: Sender<Job>,
}

struct Job {
    walk: Box<Walk>,
    token: u32,
    reply: Sender<News>,
}

impl Masks {
    /// Starts the threads.
    pub fn new() -> Self {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads =
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MASK_THREADS);
        for _ in 0..threads {
            let receiver = receiver.clone();
            let started = std::thread::Builder::new()
                .name("mask".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || compute_masks(&receiver));
            if let Err(error) = started {
                tracing::error!(%error, "cannot start a thread for masks");
            }
        }
        Self { jobs }
    }

    /// Lets a walk go on by a token; gives where to hear of it.
    fn advance(&self, walk: Box<Walk>, token: u32) -> Result<Receiver<News>, ApiError> {
        let (reply, news) = channel();
        self.jobs.send(Job { walk, token, reply }).map_err(|_| failed("no thread computes masks"))?;
        Ok(news)
    }
}

fn compute_masks(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // Whoever waits for a job holds the lock; a job is taken under it and done without it.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A walk that panics is lost, and its answer hears of it; the thread goes on.
        let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
    }
}

impl Job {
    fn run(self) {
        let Self { mut walk, token, reply } = self;
        let over = walk.take(token);
        // An answer that was cancelled wants no news.
        let _ = reply.send(News::Taken { over });
        if let Ahead::Mask(_) = walk.ahead {
            walk.look_ahead();
        }
        let _ = reply.send(News::Back(walk));
    }
}
