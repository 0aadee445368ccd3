//! A model's language: how a request becomes a prompt, and how what the model writes is to be read.

use std::sync::Arc;

use protocol::ApiError;
use protocol::worker::{Constraint, Message, Tool, ToolChoice};
use serde_json::{Map, Value};

use crate::text::answer::AnswerPlan;
use crate::text::constraint::{Grammar, Grammars, prepare_schema};
use crate::text::reasoning::ReasoningMarks;
use crate::text::template::{ChatTemplate, Conversation};
use crate::text::tokenizer::Tokenizer;
use crate::text::tools::{self, Calls, Demand, ToolFormat};
use crate::text::vocabulary::Vocabulary;

/// What is needed to turn a request into tokens and tokens into text.
#[derive(Debug)]
pub struct Language {
    /// The tokens.
    pub vocabulary: Arc<Vocabulary>,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to text; models that were not trained to chat have none.
    pub template: Option<ChatTemplate>,
    /// Tokens that prompt and answer may hold together.
    pub context_limit: usize,
    /// What answers can be constrained to.
    pub grammars: Arc<Grammars>,
    /// How the template wants calls to be written; none where it does not know tools.
    tool_format: Option<ToolFormat>,
    reasoning: Option<ReasoningMarks>,
}

/// What a request asks besides its prompt that concerns what is said and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Tools that may be called.
    pub tools: Vec<Tool>,
    /// Which of them.
    pub tool_choice: ToolChoice,
    /// Whether one answer may hold only one call.
    pub is_single_call: bool,
    /// Further names that the template sees.
    pub template_options: Map<String, Value>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// So many tokens go by before a stop string counts.
    pub min_tokens: usize,
}

/// A conversation made ready for the engine.
#[derive(Debug)]
pub struct Prepared {
    /// The text that the model reads.
    pub prompt: String,
    /// How the answer is read.
    pub plan: AnswerPlan,
    /// Which calls it must hold.
    choice: ToolChoice,
    constraint: Option<Constraint>,
}

impl Prepared {
    /// A text to continue, no template applied.
    pub fn plain(prompt: String, terms: Terms) -> Self {
        let plan = AnswerPlan { stop: terms.stop, min_tokens: terms.min_tokens, ..AnswerPlan::default() };
        Self { prompt, plan, choice: ToolChoice::None, constraint: terms.constraint }
    }

    /// What to generate under: the request's constraint, and the calls that it demands.
    fn demand(&self) -> Demand<'_> {
        Demand {
            calls: self.plan.calls.as_ref(),
            choice: &self.choice,
            constraint: self.constraint.as_ref(),
            thoughts: self.plan.thoughts,
        }
    }
}

impl Language {
    /// A model's language.
    pub fn new(
        vocabulary: Arc<Vocabulary>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        context_limit: usize,
    ) -> Self {
        let tool_format = template
            .as_ref()
            .and_then(|template| ToolFormat::of_template(template.source(), template.reads("tools")));
        let reasoning = template.as_ref().and_then(|template| ReasoningMarks::of_template(template.source()));
        let grammars = Arc::new(Grammars::new(vocabulary.clone()));
        Self { vocabulary, tokenizer, template, context_limit, grammars, tool_format, reasoning }
    }

    /// The grammar to generate under, if any. Schemas of tools that are not strict are kept to where that is possible.
    pub async fn grammar(&self, prepared: &Prepared) -> Result<Option<Arc<Grammar>>, ApiError> {
        let demand = prepared.demand();
        let Some(constraint) = demand.constraint(&self.vocabulary, &prepare_schema)? else { return Ok(None) };
        let refused = match self.grammars.get(&constraint).await {
            Ok(grammar) => return Ok(Some(grammar)),
            Err(error) => error,
        };
        let tools = prepared.plan.calls.as_ref().map_or(&[][..], |calls| &calls.tools);
        if tools.is_empty() || tools.iter().any(|tool| tool.strict) {
            return Err(self.at_fault(prepared, refused).await);
        }
        // Some schemas turn out only now to be more than can be kept to.
        let none_of_tools = |schema: &Value, param: &str| {
            if param.starts_with("tools") { Err(refused.clone()) } else { prepare_schema(schema, param) }
        };
        let Some(constraint) = demand.constraint(&self.vocabulary, &none_of_tools)? else { return Ok(None) };
        match self.grammars.get(&constraint).await {
            Ok(grammar) => Ok(Some(grammar)),
            Err(error) => Err(self.at_fault(prepared, error).await),
        }
    }

    /// The error of a grammar that was put together, told of the schema in it that is at fault, if one alone is. Other
    /// errors name their fault already.
    async fn at_fault(&self, prepared: &Prepared, refused: ApiError) -> ApiError {
        if refused.param.as_deref() != Some("constraint.grammar") {
            return refused;
        }
        let answer = match &prepared.constraint {
            Some(Constraint::JsonSchema { schema }) => Some((schema, "constraint.schema".to_owned())),
            _ => None,
        };
        let tools = prepared.plan.calls.as_ref().map_or(&[][..], |calls| &calls.tools);
        let of_tools =
            tools.iter().enumerate().filter(|(_, tool)| tool.strict).filter_map(|(index, tool)| {
                Some((tool.parameters.as_ref()?, format!("tools[{index}].parameters")))
            });
        for (schema, param) in answer.into_iter().chain(of_tools) {
            if let Err(error) = self.grammars.schema(schema, &param).await {
                return error;
            }
        }
        refused
    }

    /// Makes a conversation ready, by the model's own template.
    pub fn prepare(&self, messages: &[Message], terms: Terms) -> Result<Prepared, ApiError> {
        let Some(template) = &self.template else {
            return Err(ApiError::invalid("messages", "This model has no chat template.")
                .with_action("Send 'prompt' instead, or use a model that is made for conversations."));
        };
        let Terms { tool_choice: choice, template_options, constraint, stop, min_tokens, .. } = terms;
        let tools = if choice == ToolChoice::None { Vec::new() } else { terms.tools };
        let rendered = |messages: &[Message], tools: &[Tool]| {
            template.render(&Conversation { messages, tools, options: &template_options })
        };
        let prompt = match self.tool_format {
            None if !tools.is_empty() || !tools::is_free_of_tools(messages) => {
                rendered(&tools::told_in_text(messages, &tools), &[])?
            }
            _ => rendered(messages, &tools)?,
        };
        let calls = (!tools.is_empty()).then(|| Calls {
            format: self.tool_format.unwrap_or(ToolFormat::Hermes),
            tools,
            is_single: terms.is_single_call,
        });
        let thoughts = self.reasoning.map(|marks| (marks, marks.are_open(&prompt)));
        let plan = AnswerPlan { stop, min_tokens, thoughts, calls };
        Ok(Prepared { prompt, plan, choice, constraint })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn language(template: &str) -> Language {
        let vocabulary = Arc::new(Vocabulary::of_bytes(&[]));
        let tokenizer = Tokenizer::of_bytes(vocabulary.clone());
        let template = ChatTemplate::compile(template, "", "").unwrap();
        Language::new(vocabulary, tokenizer, Some(template), 64)
    }

    fn user(content: &str) -> Message {
        Message { role: "user".to_owned(), content: content.to_owned(), ..Message::default() }
    }

    fn terms(choice: ToolChoice) -> Terms {
        let tool = Tool { name: "f".to_owned(), description: None, parameters: None, strict: false };
        Terms { tools: vec![tool], tool_choice: choice, ..Terms::default() }
    }

    const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";

    #[test]
    fn a_template_without_tools_gets_them_told_in_words() {
        let language = language(PLAIN);
        let prepared = language.prepare(&[user("go")], terms(ToolChoice::Auto)).unwrap();
        assert!(prepared.prompt.starts_with("[system]These tools"), "{}", prepared.prompt);
        assert_eq!(prepared.plan.calls.unwrap().format, ToolFormat::Hermes);
        let prepared = language.prepare(&[user("go")], terms(ToolChoice::None)).unwrap();
        assert_eq!((prepared.prompt.as_str(), prepared.plan.calls), ("[user]go", None));
    }

    #[test]
    fn a_template_that_knows_tools_gets_them_itself() {
        let language = language("{{ tools | tojson }}[TOOL_CALLS]");
        let prepared = language.prepare(&[user("go")], terms(ToolChoice::Auto)).unwrap();
        assert!(prepared.prompt.contains(r#""name": "f""#), "{}", prepared.prompt);
        assert_eq!(prepared.plan.calls.unwrap().format, ToolFormat::Mistral);
    }

    #[tokio::test]
    async fn a_schema_that_cannot_be_kept_to_is_pointed_at_within_a_grammar_too() {
        let overlapping = json!({"type": "object", "properties": {"a": {"oneOf": [
            {"type": "integer"}, {"type": "integer", "minimum": 3}]}}});
        let mut strict = terms(ToolChoice::Required);
        strict.tools[0].strict = true;
        strict.tools[0].parameters = Some(overlapping.clone());
        let constrained = Terms {
            constraint: Some(Constraint::JsonSchema { schema: overlapping }),
            ..terms(ToolChoice::None)
        };
        let thinking = "{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}";
        for (template, terms, param) in
            [(PLAIN, strict, "tools[0].parameters"), (thinking, constrained, "constraint.schema")]
        {
            let language = language(template);
            let prepared = language.prepare(&[user("x")], terms).unwrap();
            let error = language.grammar(&prepared).await.unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
            assert_eq!(error.details["pointer"], "/properties/a/oneOf");
        }
    }

    #[test]
    fn thoughts_that_the_prompt_opens_come_first() {
        let language = language("{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}");
        let mut terms = terms(ToolChoice::None);
        terms.template_options = json!({"enable_thinking": true}).as_object().unwrap().clone();
        let open = |terms: Terms| language.prepare(&[user("x")], terms).unwrap().plan.thoughts.unwrap().1;
        assert!(open(terms.clone()));
        terms.template_options.clear();
        assert!(!open(terms));
    }
}
