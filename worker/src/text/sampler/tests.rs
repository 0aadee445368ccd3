use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(sampling, 0, &[], &[], None)
}

fn drawn_by(sampler: &mut Sampler, logits: &[f32], count: usize) -> Vec<u32> {
    let mut row = Vec::new();
    (0..count)
        .map(|_| {
            row.clear();
            row.extend_from_slice(logits);
            match sampler.next(&mut row).unwrap() {
                Next::Token(chosen) => chosen.token,
                Next::End => u32::MAX,
            }
        })
        .collect()
}

fn drawn(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
    drawn_by(&mut sampler(sampling), logits, count)
}

fn chosen(sampler: &mut Sampler, logits: &[f32]) -> Chosen {
    match sampler.next(&mut logits.to_vec()).unwrap() {
        Next::Token(chosen) => chosen,
        Next::End => panic!("an end"),
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

#[test]
fn greedy_takes_the_lowest_id_of_equals_and_no_nan() {
    let logits = [f32::NAN, 1.0, 3.0, 3.0];
    assert_eq!(drawn(greedy(), &logits, 2), [2, 2]);
    assert_eq!(drawn(Sampling { top_k: 1, ..Sampling::default() }, &logits, 1), [2]);
}

#[test]
fn logits_of_which_none_is_a_number_are_an_error() {
    for sampling in [greedy(), Sampling::default(), Sampling { top_k: 2, ..Sampling::default() }] {
        let error = sampler(sampling).next(&mut [f32::NAN, f32::NEG_INFINITY]).unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal);
    }
    assert_eq!(drawn(Sampling::default(), &[0.0, f32::INFINITY, f32::NAN], 3), [1, 1, 1]);
}

#[test]
fn a_seed_repeats_itself_and_another_differs() {
    let logits = [0.0; 50];
    let seeded = |seed| drawn(Sampling { seed, ..Sampling::default() }, &logits, 20);
    assert_eq!(seeded(7), seeded(7));
    assert_ne!(seeded(7), seeded(8));
}

#[test]
fn choices_of_one_seed_differ_and_the_first_is_the_only_ones() {
    let logits = [0.0; 50];
    let choice = |choice| {
        let sampling = Sampling { seed: 7, ..Sampling::default() };
        drawn_by(&mut Sampler::new(sampling, choice, &[], &[], None), &logits, 20)
    };
    assert_eq!(choice(2), choice(2));
    assert_ne!(choice(0), choice(1));
    assert_ne!(choice(1), choice(2));
    assert_eq!(choice(0), drawn(Sampling { seed: 7, ..Sampling::default() }, &logits, 20));
}

/// Pearson's chi-square over 40 tokens must stay under the value that chance exceeds once in 100,000 times (39 degrees of
/// freedom); and what was filtered out never comes.
#[test]
fn draws_follow_the_probabilities() {
    let logits: Vec<f32> = (0..40).map(|id| ((id * 7) % 40) as f32 * -0.08).collect();
    let all = Sampling { temperature: 1.3, seed: 11, ..Sampling::default() };
    for sampling in [
        all.clone(),
        Sampling { top_k: 25, ..all.clone() },
        Sampling { top_p: 0.8, ..all.clone() },
        Sampling { min_p: 0.3, ..all.clone() },
        Sampling { typical_p: 0.7, ..all.clone() },
    ] {
        const DRAWS: usize = 40_000;
        let kept = reference(&sampling, &logits);
        let weight = |id: u32| (f64::from(logits[id as usize]) / 1.3).exp();
        let total: f64 = kept.iter().map(|id| weight(*id)).sum();
        let mut seen = [0usize; 40];
        for token in drawn(sampling.clone(), &logits, DRAWS) {
            seen[token as usize] += 1;
        }
        let mut chi_square = 0.0;
        for id in 0..40 {
            if kept.contains(&id) {
                let expected = weight(id) / total * DRAWS as f64;
                chi_square += (seen[id as usize] as f64 - expected).powi(2) / expected;
            } else {
                assert_eq!(seen[id as usize], 0, "{sampling:?}: token {id}");
            }
        }
        assert!(chi_square < 91.0, "{sampling:?}: chi-square {chi_square}");
    }
}

#[test]
fn bias_bans_and_forces() {
    let logits = [1.0, 2.0, 3.0];
    let biased = |logit_bias| drawn(Sampling { logit_bias, seed: 3, ..Sampling::default() }, &logits, 200);
    assert!(!biased(vec![(2, -100.0)]).contains(&2));
    assert_eq!(biased(vec![(0, 100.0)]), vec![0; 200]);
}

#[test]
fn presence_counts_once_and_frequency_each_time() {
    let logits = [3.0, 1.75, 0.0];
    let order = |sampling| drawn(sampling, &logits, 6);
    assert_eq!(order(greedy()), [0; 6]);
    assert_eq!(order(Sampling { presence_penalty: 2.0, ..greedy() }), [0, 1, 0, 0, 0, 0]);
    // 3, 2.5, 2, 1.5 for token 0; 1.75, 1.25 for token 1.
    assert_eq!(order(Sampling { frequency_penalty: 0.5, ..greedy() }), [0, 0, 0, 1, 0, 1]);
    assert_eq!(order(Sampling { frequency_penalty: -0.5, ..greedy() }), [0; 6]);
}

#[test]
fn repetition_sees_the_prompt_and_both_signs() {
    let sampling = Sampling { repetition_penalty: 2.0, ..greedy() };
    let first =
        |logits: &[f32]| drawn_by(&mut Sampler::new(sampling.clone(), 0, &[1, 1], &[], None), logits, 1)[0];
    assert_eq!(first(&[2.0, 3.0]), 0, "3 / 2 is below 2");
    assert_eq!(first(&[-5.0, -3.0]), 0, "-3 * 2 is below -5");
    assert_eq!(first(&[1.0, 3.0]), 1);
    // The penalties of OpenAI's look at the answer alone.
    let presence = Sampling { presence_penalty: 2.0, ..greedy() };
    assert_eq!(drawn_by(&mut Sampler::new(presence, 0, &[1], &[], None), &[2.0, 3.0], 1), [1]);
}

#[test]
fn an_answer_ends_not_before_its_time() {
    let logits = [5.0, 1.0];
    let with = |sampling| drawn_by(&mut Sampler::new(sampling, 0, &[], &[0], None), &logits, 4);
    assert_eq!(with(greedy())[0], u32::MAX);
    assert_eq!(with(Sampling { min_tokens: 3, ..greedy() }), [1, 1, 1, u32::MAX]);
    assert_eq!(with(Sampling { ignore_eos: true, ..greedy() }), [1; 4]);
}

#[test]
fn log_probabilities_are_the_models_own() {
    let logits = [1.0f32, 4.0, 2.0, f32::NAN, 3.0];
    let total: f64 = [1.0f64, 4.0, 2.0, 3.0].iter().map(|logit| logit.exp()).sum();
    let exact = |logit: f64| (logit - total.ln()) as f32;
    let sampling = Sampling {
        temperature: 0.3,
        logit_bias: vec![(0, 100.0)],
        presence_penalty: 1.0,
        logprobs: Some(3),
        ..Sampling::default()
    };
    let chosen = chosen(&mut sampler(sampling), &logits);
    assert_eq!(chosen.token, 0);
    assert!((chosen.logprob.unwrap() - exact(1.0)).abs() < 1e-5, "{chosen:?}");
    assert_eq!(chosen.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 4, 2]);
    for ((_, logprob), logit) in chosen.top.iter().zip([4.0, 3.0, 2.0]) {
        assert!((logprob - exact(logit)).abs() < 1e-5);
    }
    let of_prompt = log_probabilities(&logits, 4, 1);
    assert!((of_prompt.logprob.unwrap() - exact(3.0)).abs() < 1e-5);
    assert_eq!(of_prompt.top.len(), 1);
}

/// What the filters leave, by sorting everything, in the order that draws are made in.
fn reference(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    let highest = scan::highest(logits);
    let weight =
        |id: &u32| f64::from(scan::weight(logits[*id as usize], highest, 1.0 / sampling.temperature));
    let likelier = |left: &u32, right: &u32| -> Ordering {
        logits[*right as usize].total_cmp(&logits[*left as usize]).then(left.cmp(right))
    };
    let total = |ids: &[u32]| ids.iter().map(weight).sum::<f64>();
    let holding = |ids: &[u32], wanted: f64| {
        let mut reached = 0.0;
        let enough = ids.iter().position(|id| {
            reached += weight(id);
            reached >= wanted
        });
        enough.map_or(ids.len(), |index| index + 1)
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if sampling.top_k > 0 && sampling.top_k < ids.len() {
        ids.sort_by(likelier);
        ids.truncate(sampling.top_k);
    }
    if sampling.typical_p < 1.0 {
        // What has no weight has no surprise either.
        ids.retain(|id| weight(id) > 0.0);
        let all = total(&ids);
        let surprise = |id: &u32| {
            let scaled = (logits[*id as usize] - highest) * (1.0 / sampling.temperature);
            all.ln() - f64::from(scaled)
        };
        let expected: f64 = ids.iter().map(|id| weight(id) / all * surprise(id)).sum();
        let distance = |id: &u32| (surprise(id) - expected).abs() as f32;
        ids.sort_by(|left, right| distance(left).total_cmp(&distance(right)).then(likelier(left, right)));
        ids.truncate(holding(&ids, f64::from(sampling.typical_p) * all));
    }
    if sampling.top_p < 1.0 {
        let wanted = f64::from(sampling.top_p) * total(&ids);
        ids.sort_by(likelier);
        ids.truncate(holding(&ids, wanted));
    }
    if sampling.min_p > 0.0 {
        let most = ids.iter().map(weight).fold(0.0, f64::max);
        ids.retain(|id| weight(id) as f32 >= sampling.min_p * most as f32);
    }
    ids
}

fn off_or(off: f32, on: impl Strategy<Value = f32>) -> impl Strategy<Value = f32> {
    prop_oneof![Just(off), on]
}

proptest! {
    #[test]
    fn the_filters_equal_those_that_sort_everything(
        logits in prop::collection::vec(-8.0f32..8.0, 2..1500),
        top_k in prop_oneof![Just(0usize), 2usize..400],
        top_p in off_or(1.0, 0f32..1.0),
        min_p in off_or(0.0, 0.001f32..1.0),
        typical_p in off_or(1.0, 0.01f32..0.999),
        temperature in 0.1f32..2.0,
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature, top_k, top_p, min_p, typical_p, seed, ..Sampling::default() };
        prop_assume!(!sampling.takes_all());
        let mut candidates = Candidates::default();
        candidates.filter(&sampling, &logits, scan::highest(&logits), 1.0 / temperature);
        let expected = reference(&sampling, &logits);
        prop_assert!(!expected.is_empty());
        prop_assert_eq!(candidates.ids(), expected.clone());
        let token = drawn(sampling, &logits, 1)[0];
        prop_assert!(expected.contains(&token));
    }

    #[test]
    fn the_likeliest_are_those_of_a_full_sort(
        logits in prop::collection::vec(prop_oneof![-8.0f32..8.0, Just(1.0f32)], 1..1500),
        count in 0usize..21,
    ) {
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        sorted.truncate(count);
        let found: Vec<(u32, f32)> = Candidates::default().top(&logits, count).collect();
        prop_assert_eq!(found, sorted);
        prop_assert_eq!(likeliest(&logits), log_probabilities(&logits, 0, 1).top[0].0);
    }

    #[test]
    fn log_probabilities_hold_at_most_one(logits in prop::collection::vec(-40.0f32..40.0, 1..600)) {
        let row = log_probabilities(&logits, 0, 20);
        let held: f64 = row.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        prop_assert!(held <= 1.0 + 1e-5, "{held}");
        prop_assert!(row.top.is_sorted_by(|left, right| left.1 >= right.1));
        if logits.len() <= 20 {
            prop_assert!((held - 1.0).abs() < 1e-5);
        }
    }
}
