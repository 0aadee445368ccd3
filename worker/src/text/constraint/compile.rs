//! From a constraint's text to a grammar, within limits.

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use protocol::ApiError;
use protocol::worker::Constraint;
use serde_json::{Value, json};

use crate::text::constraint::guide::{Grammar, Masks};
use crate::text::constraint::schema::{self, Prepared};
use crate::text::constraint::trie::Tokens;
use crate::text::constraint::{TEXT_BYTES_MAX, first_line};

/// Brackets that may stand open at one place of an expression or a grammar.
const NESTING_MAX: usize = 200;
/// Rules and tokens of a grammar at most.
const LARK_LINES_MAX: usize = 4_000;
/// What a compiled grammar takes besides its text's share and its lexer.
const GRAMMAR_BYTES: usize = 32 << 10;
/// Bytes of a compiled grammar for each byte of its text, measured on schemas of a few hundred properties.
const BYTES_PER_BYTE: usize = 40;

/// A constraint whose text has passed the first looks.
pub struct Source {
    key: String,
    kind: Kind,
}

enum Kind {
    Schema(Prepared),
    Regex(String),
    Lark(String),
}

impl Source {
    /// Looks at a constraint before it is compiled: its size, its nesting, and what a schema may not say.
    pub fn of(constraint: &Constraint) -> Result<Self, ApiError> {
        let kind = match constraint {
            Constraint::JsonObject => return Self::of_schema(&json!({"type": "object"}), "constraint"),
            Constraint::JsonSchema { schema } => return Self::of_schema(schema, "constraint.schema"),
            Constraint::Regex { pattern } => {
                check_size("constraint.pattern", pattern.len())?;
                check_nesting("constraint.pattern", pattern)?;
                Kind::Regex(unanchored(pattern).to_owned())
            }
            Constraint::Lark { grammar } => {
                check_size("constraint.grammar", grammar.len())?;
                check_nesting("constraint.grammar", grammar)?;
                check_lines(grammar)?;
                Kind::Lark(grammar.clone())
            }
        };
        let key = match &kind {
            Kind::Schema(prepared) => schema_key(&prepared.schema),
            Kind::Regex(pattern) => format!("regex {pattern}"),
            Kind::Lark(grammar) => format!("lark {grammar}"),
        };
        Ok(Self { key, kind })
    }

    /// Looks at a schema, which errors name by `param`.
    pub fn of_schema(schema: &Value, param: &str) -> Result<Self, ApiError> {
        check_size(param, schema.to_string().len())?;
        let prepared = schema::prepare_root(schema, param)?;
        Ok(Self { key: schema_key(&prepared.schema), kind: Kind::Schema(prepared) })
    }

    /// What the grammar is kept under.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same for good.
    pub fn into_key(self) -> String {
        self.key
    }

    fn param(&self) -> &'static str {
        match self.kind {
            Kind::Schema(_) => "constraint.schema",
            Kind::Regex(_) => "constraint.pattern",
            Kind::Lark(_) => "constraint.grammar",
        }
    }
}

/// The same schema with its keys in another order is another grammar: properties come in their order.
fn schema_key(schema: &Value) -> String {
    format!("schema {schema}")
}

/// Compiles a source and looks at its first mask.
pub fn compile(source: &Source, tokens: &Tokens, masks: &Masks) -> Result<Grammar, ApiError> {
    let top = match &source.kind {
        Kind::Schema(prepared) => TopLevelGrammar::from_json_schema(prepared.schema.clone()),
        Kind::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
        Kind::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
    };
    let refused = |error: String| match &source.kind {
        Kind::Schema(prepared) => prepared.refusal(&error, |pattern| pattern_error(tokens, pattern)),
        Kind::Regex(_) => {
            let message = format!("This expression cannot be kept to: {}.", plain(&error));
            ApiError::invalid(source.param(), message)
        }
        Kind::Lark(_) => {
            ApiError::invalid(source.param(), format!("This grammar cannot be kept to: {}.", plain(&error)))
        }
    };
    let parser = tokens.factory.create_parser(top).map_err(|error| refused(format!("{error:#}")))?;
    let bytes = GRAMMAR_BYTES + BYTES_PER_BYTE * source.key.len();
    Grammar::new(Matcher::new(Ok(parser)), bytes, masks).map_err(refused)
}

/// Why a pattern of a schema cannot be compiled; none if it can.
fn pattern_error(tokens: &Tokens, pattern: &str) -> Option<String> {
    let schema: Value = json!({"type": "string", "pattern": pattern});
    let top = TopLevelGrammar::from_json_schema(schema);
    tokens.factory.create_parser(top).err().map(|error| plain(&format!("{error:#}")))
}

/// An error in a sentence's form.
fn plain(error: &str) -> String {
    first_line(error).trim_end_matches(['.', ' ']).to_owned()
}

fn check_size(param: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("'{param}' may have {TEXT_BYTES_MAX} bytes; it has {bytes}.");
    Err(ApiError::invalid(param, message))
}

/// Parsers descend into brackets; how deep is looked at before.
fn check_nesting(param: &str, text: &str) -> Result<(), ApiError> {
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > NESTING_MAX {
            let message =
                format!("'{param}' may have {NESTING_MAX} brackets open at one place; it has more.");
            return Err(ApiError::invalid(param, message));
        }
    }
    Ok(())
}

fn check_lines(grammar: &str) -> Result<(), ApiError> {
    let lines = grammar.lines().count();
    if lines <= LARK_LINES_MAX {
        return Ok(());
    }
    let message = format!("'constraint.grammar' may have {LARK_LINES_MAX} lines; it has {lines}.");
    Err(ApiError::invalid("constraint.grammar", message))
}

/// An expression without the anchors at its ends, which say what holds anyway: it matches the whole text.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        // A backslash before it makes it a sign, unless another makes the backslash one.
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_go_and_signs_stay() {
        for (pattern, expected) in
            [("^a+$", "a+"), ("a", "a"), (r"a\$", r"a\$"), (r"a\\$", r"a\\"), ("^", ""), ("$", "")]
        {
            assert_eq!(unanchored(pattern), expected);
        }
    }

    #[test]
    fn size_and_nesting_have_limits() {
        let refused = |constraint: Constraint| {
            let error = Source::of(&constraint).err().unwrap();
            (error.param.unwrap(), error.message)
        };
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        let (param, message) = refused(Constraint::Regex { pattern: long.clone() });
        assert_eq!(param, "constraint.pattern");
        assert!(message.contains("262144") && message.contains("262145"), "{message}");
        assert_eq!(refused(Constraint::Lark { grammar: long.clone() }).0, "constraint.grammar");
        let schema = json!({"const": long});
        assert_eq!(refused(Constraint::JsonSchema { schema }).0, "constraint.schema");
        let deep = "(".repeat(201) + &")".repeat(201);
        assert_eq!(refused(Constraint::Regex { pattern: deep }).0, "constraint.pattern");
        let many = "a: \"b\"\n".repeat(4_001);
        assert_eq!(refused(Constraint::Lark { grammar: many }).0, "constraint.grammar");
    }
}
