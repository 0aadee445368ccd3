//! Which prompts go on in a step, and how far: the policy alone, without effects.
//!
//! Every generating sequence has its token in every step. What the step's budget leaves is shared by the prompts in equal
//! parts, so that neither does a long prompt hold up the others nor a short one wait behind it. A part ends at a fixed
//! multiple of tokens or with its prompt; what company there is moves the ends by whole multiples only. Prompts that nobody
//! waits for in person go on by one part a step, in turn, as long as somebody waits for anything else in it: their steps
//! are hardly longer, and nobody starves.

/// A prompt on its way in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prompt {
    /// Which sequence, in the caller's own numbers.
    pub(super) member: usize,
    /// Tokens that are computed.
    pub(super) computed: usize,
    /// Tokens to compute in all.
    pub(super) end: usize,
    /// Tokens that may go into one step whatever the budget.
    pub(super) limit: usize,
    /// The step in which its turn was last.
    pub(super) last_turn: u64,
    /// Whether nobody waits for it in person.
    pub(super) is_patient: bool,
    /// What the plan gives it: the tokens that will be computed after the step.
    pub(super) planned: usize,
}

impl Prompt {
    /// The end of one more part.
    fn next_end(&self, part: usize) -> usize {
        ((self.planned / part + 1) * part).min(self.end)
    }
}

/// Plans a step: gives each prompt an end, some of them the old one. Parts end at multiples of `part`. `is_awaited` tells
/// whether somebody waits in person for anything in the step.
pub(super) fn plan(prompts: &mut [Prompt], budget: usize, part: usize, is_awaited: bool) {
    prompts.sort_unstable_by_key(|prompt| (prompt.is_patient, prompt.last_turn, prompt.member));
    if is_awaited {
        let awaited = prompts.partition_point(|prompt| !prompt.is_patient);
        let (awaited, patient) = prompts.split_at_mut(awaited);
        share(awaited, budget, part);
        share(patient, 0, part);
    } else {
        share(prompts, budget, part);
    }
}

/// Shares a budget in equal parts; however small it is, one prompt goes on.
fn share(prompts: &mut [Prompt], budget: usize, part: usize) {
    for prompt in &mut *prompts {
        prompt.planned = prompt.computed;
    }
    let mut left = budget;
    let mut anything = false;
    loop {
        let before = left;
        for prompt in &mut *prompts {
            let end = prompt.next_end(part);
            let more = end - prompt.planned;
            let fits = more <= left || !anything;
            if more == 0
                || !fits
                || (prompt.planned > prompt.computed && end - prompt.computed > prompt.limit)
            {
                continue;
            }
            anything = true;
            prompt.planned = end;
            left = left.saturating_sub(more);
        }
        if left == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(member: usize, computed: usize, end: usize, last_turn: u64) -> Prompt {
        Prompt { member, computed, end, limit: usize::MAX, last_turn, is_patient: false, planned: 0 }
    }

    fn ends(mut prompts: Vec<Prompt>, budget: usize) -> Vec<(usize, usize)> {
        plan(&mut prompts, budget, 32, true);
        let mut ends: Vec<_> = prompts.iter().map(|prompt| (prompt.member, prompt.planned)).collect();
        ends.sort_unstable();
        ends
    }

    #[test]
    fn a_lone_prompt_has_the_whole_budget() {
        assert_eq!(ends(vec![prompt(0, 0, 1000, 0)], 256), [(0, 256)]);
        assert_eq!(ends(vec![prompt(0, 40, 1000, 0)], 256), [(0, 288)]);
        assert_eq!(ends(vec![prompt(0, 990, 1000, 0)], 256), [(0, 1000)]);
    }

    #[test]
    fn short_prompts_go_in_beside_a_long_one() {
        let prompts = vec![prompt(0, 0, 4000, 0), prompt(1, 0, 20, 0), prompt(2, 0, 50, 0)];
        assert_eq!(ends(prompts, 256), [(0, 160), (1, 20), (2, 50)]);
    }

    #[test]
    fn those_who_waited_longer_come_first_where_not_all_can() {
        let prompts = vec![prompt(0, 32, 400, 7), prompt(1, 0, 400, 3), prompt(2, 0, 400, 5)];
        assert_eq!(ends(prompts, 64), [(0, 32), (1, 32), (2, 32)]);
        let prompts = vec![prompt(0, 0, 400, 0)];
        assert_eq!(ends(prompts, 0), [(0, 32)], "one prompt goes on without any budget");
    }

    #[test]
    fn a_prompt_with_a_limit_of_its_own_keeps_it() {
        let mut limited = prompt(0, 0, 400, 0);
        limited.limit = 32;
        assert_eq!(ends(vec![limited, prompt(1, 0, 400, 0)], 256), [(0, 32), (1, 224)]);
    }

    #[test]
    fn who_is_patient_goes_on_by_one_part_beside_others_and_by_all_of_the_budget_alone() {
        let patient = |member, last_turn| Prompt { is_patient: true, ..prompt(member, 0, 400, last_turn) };
        let prompts = vec![patient(0, 1), patient(1, 0), prompt(2, 0, 400, 2)];
        assert_eq!(ends(prompts, 256), [(0, 0), (1, 32), (2, 256)]);
        assert_eq!(ends(vec![patient(0, 1), patient(1, 2)], 256), [(0, 32), (1, 0)], "others generate");
        let mut prompts = vec![patient(0, 1), patient(1, 2)];
        plan(&mut prompts, 256, 32, false);
        assert!(prompts.iter().all(|prompt| prompt.planned == 128), "{prompts:?}");
    }

    proptest! {
        #[test]
        fn plans_keep_the_budget_leave_little_of_it_and_end_at_multiples(
            sizes in prop::collection::vec((0usize..20, 1usize..600, 0u64..9), 1..9),
            budget in 32usize..700,
        ) {
            let mut prompts: Vec<Prompt> = sizes.iter().enumerate()
                .map(|(member, (parts, rest, turn))| prompt(member, parts * 32, parts * 32 + rest, *turn))
                .collect();
            plan(&mut prompts, budget, 32, true);
            let planned: usize = prompts.iter().map(|prompt| prompt.planned - prompt.computed).sum();
            prop_assert!(planned > 0 && planned <= budget);
            for prompt in &prompts {
                prop_assert!(prompt.planned <= prompt.end);
                prop_assert!(prompt.planned == prompt.end || prompt.planned.is_multiple_of(32));
                prop_assert!(prompt.planned == prompt.end || budget - planned < 32, "budget is left over");
            }
            let got: Vec<_> = prompts.iter().filter(|prompt| prompt.planned < prompt.end)
                .map(|prompt| (prompt.planned - prompt.computed).div_ceil(32)).collect();
            let (least, most) = (got.iter().min().unwrap_or(&0), got.iter().max().unwrap_or(&0));
            prop_assert!(most - least <= 1, "unequal parts {got:?}");
        }
    }
}
