//! What makes tokens less likely that were there already.

use crate::text::sampler::Sampling;

/// Tokens of the prompt and the answer, and what they cost.
#[derive(Debug)]
pub struct Penalties {
    presence: f32,
    frequency: f32,
    repetition: f32,
    /// Ordered by id.
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    id: u32,
    /// How often the answer holds it; 0 if only the prompt does.
    in_answer: u32,
}

impl Penalties {
    /// Whether any penalty is in force.
    pub fn are_wanted(sampling: &Sampling) -> bool {
        sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
            || (sampling.repetition_penalty - 1.0).abs() > f32::EPSILON
    }

    /// The penalties of an answer that is about to begin; none if none is in force.
    pub fn new(sampling: &Sampling, prompt: &[u32]) -> Option<Self> {
        if !Self::are_wanted(sampling) {
            return None;
        }
        let mut ids = prompt.to_vec();
        ids.sort_unstable();
        ids.dedup();
        Some(Self {
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            repetition: sampling.repetition_penalty,
            seen: ids.into_iter().map(|id| Seen { id, in_answer: 0 }).collect(),
        })
    }

    /// Counts a token of the answer.
    pub fn count(&mut self, id: u32) {
        match self.seen.binary_search_by_key(&id, |seen| seen.id) {
            Ok(index) => self.seen[index].in_answer += 1,
            Err(index) => self.seen.insert(index, Seen { id, in_answer: 1 }),
        }
    }

    /// Takes the penalties off. Presence and frequency are OpenAI's and look at the answer only; repetition is CTRL's
    /// (Keskar et al. 2019) and looks at the prompt too.
    pub fn apply(&self, logits: &mut [f32]) {
        for seen in &self.seen {
            let Some(logit) = logits.get_mut(seen.id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            if seen.in_answer > 0 {
                *logit -= self.presence + self.frequency * seen.in_answer as f32;
            }
        }
    }
}
