//! Which texts go into the next batch: a pure choice.

/// The texts of one request that have not been computed yet.
#[derive(Debug)]
pub struct Pending {
    /// Number and tokens of each, the shortest first.
    texts: Vec<(usize, usize)>,
}

impl Pending {
    /// All texts of a request, by their tokens.
    pub fn new(tokens: impl Iterator<Item = usize>) -> Self {
        let mut texts: Vec<(usize, usize)> = tokens.enumerate().collect();
        texts.sort_by_key(|(_, tokens)| *tokens);
        Self { texts }
    }
}

/// Takes texts from all requests in turn, the longest of each first, until the next one would exceed the budget of tokens.
/// A text that exceeds it by itself goes alone. Gives request and text.
pub fn choose(requests: &mut [&mut Pending], budget: usize) -> Vec<(usize, usize)> {
    let mut chosen = Vec::new();
    let mut total = 0;
    loop {
        let before = chosen.len();
        for (request, pending) in requests.iter_mut().enumerate() {
            let Some((text, tokens)) = pending.texts.last().copied() else { continue };
            if total + tokens > budget && !chosen.is_empty() {
                return chosen;
            }
            pending.texts.pop();
            total += tokens;
            chosen.push((request, text));
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_take_turns_and_the_budget_holds() {
        let mut first = Pending::new([5, 9, 1].into_iter());
        let mut second = Pending::new([4].into_iter());
        assert_eq!(choose(&mut [&mut first, &mut second], 18), [(0, 1), (1, 0), (0, 0)]);
        assert_eq!(choose(&mut [&mut first, &mut second], 18), [(0, 2)]);
        assert!(first.texts.is_empty() && second.texts.is_empty());
        assert!(choose(&mut [&mut first], 18).is_empty());
    }

    proptest! {
        #[test]
        fn every_text_is_chosen_once(
            requests in prop::collection::vec(prop::collection::vec(1usize..300, 0..20), 1..6),
            budget in 1usize..500,
        ) {
            let mut pending: Vec<Pending> =
                requests.iter().map(|texts| Pending::new(texts.iter().copied())).collect();
            let mut seen = Vec::new();
            loop {
                let mut open: Vec<&mut Pending> = pending.iter_mut().collect();
                let batch = choose(&mut open, budget);
                if batch.is_empty() {
                    break;
                }
                let total: usize = batch.iter().map(|(request, text)| requests[*request][*text]).sum();
                prop_assert!(total <= budget || batch.len() == 1);
                seen.extend(batch);
            }
            seen.sort_unstable();
            let all = requests.iter().enumerate().flat_map(|(r, texts)| (0..texts.len()).map(move |t| (r, t)));
            prop_assert_eq!(seen, all.collect::<Vec<_>>());
        }
    }
}
