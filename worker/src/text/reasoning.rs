//! What a model thinks before it answers: the marks around it, and whether a prompt has opened it already.

/// The marks around a model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasoningMarks {
    /// Before them.
    pub open: &'static str,
    /// After them.
    pub close: &'static str,
}

const KNOWN: [ReasoningMarks; 2] = [
    ReasoningMarks { open: "<think>", close: "</think>" },
    ReasoningMarks { open: "[THINK]", close: "[/THINK]" },
];

impl ReasoningMarks {
    /// The marks that a chat template speaks of, if it does.
    pub fn of_template(source: &str) -> Option<Self> {
        KNOWN.into_iter().find(|marks| source.contains(marks.open) || source.contains(marks.close))
    }

    /// Whether an answer to this prompt begins with thoughts: the template has written the first mark itself.
    pub fn are_open(self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_templates_and_at_the_end_of_prompts() {
        let marks = ReasoningMarks::of_template("{{ content.split('</think>')[-1] }}").unwrap();
        assert_eq!(marks.open, "<think>");
        assert!(marks.are_open("<|im_start|>assistant\n<think>\n"));
        assert!(!marks.are_open("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
        assert_eq!(ReasoningMarks::of_template("{{ messages }}"), None);
    }
}
