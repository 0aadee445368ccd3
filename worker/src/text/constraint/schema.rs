//! JSON schemas: what of them can be kept to, told before they are compiled, with a pointer to what cannot.
//!
//! A schema is copied with the keywords that count: annotations and unknown keywords go, references get one place and
//! plain names, and alternatives of `oneOf` that are references are copied in, since the compiler must see that no value
//! fits two of them. What the compiler would leave out or could not promise is refused.

use std::collections::HashMap;

use protocol::ApiError;
use serde_json::{Map, Value, json};

use crate::text::constraint::first_line;

/// Schemas inside a schema at most, those that references stand for included.
const SCHEMAS_MAX: usize = 8_000;
/// Schemas inside each other at most.
const DEPTH_MAX: usize = 64;
/// Bounds of lengths and counts that are kept to; a higher upper bound is out of any answer's reach.
const COUNT_MAX: u64 = 20_000;
/// Patterns that are looked at one by one to find the one that does not compile.
const PATTERNS_TRIED_MAX: usize = 32;

/// Keywords that change what a schema means and that are not kept to.
const UNSUPPORTED: [&str; 18] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "disallow",
    "else",
    "extends",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "divisibleBy",
];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
/// Formats that are kept to.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"];

/// How generated JSON looks. Between its signs there may be one space, or a line break with an indent: as models are used
/// to write, and never without end. Signs stand for themselves where they can: an escape could spell a key a second time.
fn manner() -> Value {
    json!({"whitespace_pattern": "[ ]|\n[ ]{0,16}", "json_allowed_escapes": "nrbtf\\\""})
}

/// A schema that is ready to be compiled.
#[derive(Debug)]
pub struct Prepared {
    /// The copy.
    pub schema: Value,
    param: String,
    /// Where keywords stand of which some uses are refused by the compiler only.
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    keyword: &'static str,
    pointer: String,
    text: String,
}

/// Copies a schema that stands inside a grammar in Lark's notation, as `%json`; `param` names it in errors.
pub fn prepare(schema: &Value, param: &str) -> Result<Value, ApiError> {
    prepare_root(schema, param).map(|prepared| prepared.schema)
}

/// Copies a schema; `param` names it in errors.
pub fn prepare_root(schema: &Value, param: &str) -> Result<Prepared, ApiError> {
    let mut copier = Copier {
        root: schema,
        schemas: 0,
        targets: Vec::new(),
        names: HashMap::new(),
        open: Vec::new(),
        marks: Vec::new(),
    };
    let copied = copier.whole().map_err(|refusal| refusal.into_error(param))?;
    Ok(Prepared { schema: copied, param: param.to_owned(), marks: copier.marks })
}

impl Prepared {
    /// The answer to a schema that does not compile. `pattern_error` tells why a pattern alone does not, if it does not.
    pub fn refusal(&self, error: &str, pattern_error: impl Fn(&str) -> Option<String>) -> ApiError {
        let marked = |keyword: &str| self.marks.iter().find(|mark| mark.keyword == keyword);
        if error.contains("oneOf")
            && let Some(mark) = marked("oneOf")
        {
            let message = "'oneOf' is kept to only where no value can fit two of its alternatives: by their types, or by a \
                           required property with different constants. Use 'anyOf' where that is meant";
            return Refusal::new(&mark.pointer, message).into_error(&self.param);
        }
        if error.contains("min/maxProperties")
            && let Some(mark) = marked("maxProperties").or_else(|| marked("minProperties"))
        {
            let message =
                "bounds on the number of properties are kept to only where all 'properties' are required";
            return Refusal::new(&mark.pointer, message).into_error(&self.param);
        }
        let patterns = self.marks.iter().filter(|mark| mark.keyword == "pattern").take(PATTERNS_TRIED_MAX);
        for mark in patterns {
            if let Some(error) = pattern_error(&mark.text) {
                let message = format!("this pattern cannot be kept to: {error}");
                return Refusal::new(&mark.pointer, message).into_error(&self.param);
            }
        }
        Refusal::new("", first_line(error).trim_end_matches('.')).into_error(&self.param)
    }
}

/// What is wrong, and where.
struct Refusal {
    pointer: String,
    message: String,
}

impl Refusal {
    fn new(pointer: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), message: message.into() }
    }

    fn into_error(self, param: &str) -> ApiError {
        let place = if self.pointer.is_empty() {
            "The schema".to_owned()
        } else {
            format!("At {} of the schema", self.pointer)
        };
        let message = format!("{place}: {}.", self.message);
        ApiError::invalid(param, message).with_detail("pointer", self.pointer)
    }
}

type Copied = Result<Value, Refusal>;

struct Copier<'a> {
    root: &'a Value,
    schemas: usize,
    /// What references lead to, by the names that they get: `r0`, `r1` and so on.
    targets: Vec<Target<'a>>,
    names: HashMap<String, usize>,
    /// Targets that are being copied into a `oneOf`.
    open: Vec<usize>,
    marks: Vec<Mark>,
}

struct Target<'a> {
    schema: &'a Value,
    pointer: String,
}

impl<'a> Copier<'a> {
    fn whole(&mut self) -> Copied {
        let root = self.schema(self.root, "", 0)?;
        // Copying a target may find others.
        let mut definitions = Map::new();
        let mut next = 0;
        while let Some(Target { schema, pointer }) = self.targets.get(next) {
            let (schema, pointer) = (*schema, pointer.clone());
            definitions.insert(format!("r{next}"), self.schema(schema, &pointer, 0)?);
            next += 1;
        }
        let mut whole = match root {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => Map::new(),
            _ => return Err(Refusal::new("", "it is false, which no value fits")),
        };
        if !definitions.is_empty() {
            whole.insert("$defs".to_owned(), definitions.into());
        }
        whole.insert("x-guidance".to_owned(), manner());
        Ok(whole.into())
    }

    fn schema(&mut self, schema: &'a Value, pointer: &str, depth: usize) -> Copied {
        self.schemas += 1;
        if self.schemas > SCHEMAS_MAX {
            return Err(Refusal::new(
                pointer,
                format!("a schema may hold {SCHEMAS_MAX} others, this is one more"),
            ));
        }
        if depth > DEPTH_MAX {
            return Err(Refusal::new(pointer, format!("schemas may nest {DEPTH_MAX} deep, this is deeper")));
        }
        let keywords = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(keywords) => keywords,
            _ => return Err(Refusal::new(pointer, "a schema is an object or a boolean")),
        };
        let mut copy = Map::new();
        for (keyword, value) in keywords {
            let pointer = step(pointer, keyword);
            if let Some(value) = self.keyword(keywords, keyword, value, &pointer, depth)? {
                copy.insert(keyword.clone(), value);
            }
        }
        Ok(copy.into())
    }

    /// A keyword's value in the copy; none if the keyword does not count.
    fn keyword(
        &mut self,
        all: &'a Map<String, Value>,
        keyword: &str,
        value: &'a Value,
        pointer: &str,
        depth: usize,
    ) -> Result<Option<Value>, Refusal> {
        let copy = match keyword {
            "$ref" => self.reference(value, pointer)?,
            "properties" | "patternProperties" => self.schemas_by_name(keyword, value, pointer, depth)?,
            "items" if value.is_array() => self.list(value, pointer, depth)?,
            "items" | "additionalProperties" => self.schema(value, pointer, depth + 1)?,
            "additionalItems" if all.get("items").is_some_and(Value::is_array) => {
                self.schema(value, pointer, depth + 1)?
            }
            "prefixItems" | "allOf" | "anyOf" => self.list(value, pointer, depth)?,
            "oneOf" => self.one_of(value, pointer, depth)?,
            "type" => types(value, pointer)?,
            "enum" => non_empty_list(value, pointer)?,
            "required" => strings(value, pointer)?,
            "const" => value.clone(),
            "minLength" | "minItems" | "maxLength" | "maxItems" => return bound(keyword, value, pointer),
            "minProperties" | "maxProperties" => {
                self.mark(
                    if keyword == "minProperties" { "minProperties" } else { "maxProperties" },
                    pointer,
                    "",
                );
                check_distinct(all, keyword, value, pointer)?;
                return bound(keyword, value, pointer);
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => number(value, pointer)?,
            "multipleOf" => positive(value, pointer)?,
            "pattern" => {
                let text = value.as_str().ok_or_else(|| Refusal::new(pointer, "a pattern is a string"))?;
                self.mark("pattern", pointer, text);
                value.clone()
            }
            "format" => return format(all, value, pointer),
            "uniqueItems" if value != &Value::Bool(false) => {
                return Err(Refusal::new(pointer, "the keyword 'uniqueItems' is not supported"));
            }
            _ if UNSUPPORTED.contains(&keyword) => {
                return Err(Refusal::new(pointer, format!("the keyword '{keyword}' is not supported")));
            }
            // An annotation, or a word of somebody else's.
            _ => return Ok(None),
        };
        Ok(Some(copy))
    }

    fn mark(&mut self, keyword: &'static str, pointer: &str, text: &str) {
        self.marks.push(Mark { keyword, pointer: pointer.to_owned(), text: text.to_owned() });
    }

    fn schemas_by_name(&mut self, keyword: &str, value: &'a Value, pointer: &str, depth: usize) -> Copied {
        let named = value.as_object().ok_or_else(|| Refusal::new(pointer, "this is an object of schemas"))?;
        let mut copy = Map::new();
        for (name, schema) in named {
            let pointer = step(pointer, name);
            if keyword == "patternProperties" {
                self.mark("pattern", &pointer, name);
            }
            copy.insert(name.clone(), self.schema(schema, &pointer, depth + 1)?);
        }
        Ok(copy.into())
    }

    fn list(&mut self, value: &'a Value, pointer: &str, depth: usize) -> Copied {
        let schemas = value.as_array().ok_or_else(|| Refusal::new(pointer, "this is a list of schemas"))?;
        let copies: Result<Vec<Value>, Refusal> = schemas
            .iter()
            .enumerate()
            .map(|(index, schema)| self.schema(schema, &format!("{pointer}/{index}"), depth + 1))
            .collect();
        Ok(copies?.into())
    }

    fn one_of(&mut self, value: &'a Value, pointer: &str, depth: usize) -> Copied {
        self.mark("oneOf", pointer, "");
        let schemas = value.as_array().ok_or_else(|| Refusal::new(pointer, "this is a list of schemas"))?;
        let mut copies = Vec::new();
        for (index, schema) in schemas.iter().enumerate() {
            let pointer = format!("{pointer}/{index}");
            copies.push(match self.lone_reference(schema, &pointer)? {
                Some(target) if !self.open.contains(&target) => {
                    let Target { schema, pointer } = &self.targets[target];
                    let (schema, pointer) = (*schema, pointer.clone());
                    self.open.push(target);
                    let copy = self.schema(schema, &pointer, depth + 1);
                    self.open.pop();
                    copy?
                }
                _ => self.schema(schema, &pointer, depth + 1)?,
            });
        }
        Ok(copies.into())
    }

    /// The target of a schema that is a reference and nothing else that counts.
    fn lone_reference(&mut self, schema: &'a Value, pointer: &str) -> Result<Option<usize>, Refusal> {
        let Some(keywords) = schema.as_object().filter(|keywords| keywords.len() == 1) else {
            return Ok(None);
        };
        match keywords.get("$ref") {
            Some(reference) if reference != "#" => self.target(reference, &step(pointer, "$ref")).map(Some),
            _ => Ok(None),
        }
    }

    fn reference(&mut self, value: &'a Value, pointer: &str) -> Copied {
        if value == "#" {
            return Ok(value.clone());
        }
        Ok(format!("#/$defs/r{}", self.target(value, pointer)?).into())
    }

    fn target(&mut self, reference: &'a Value, pointer: &str) -> Result<usize, Refusal> {
        let text = reference.as_str().ok_or_else(|| Refusal::new(pointer, "a reference is a string"))?;
        let Some(fragment) = text.strip_prefix('#').filter(|fragment| fragment.starts_with('/')) else {
            let message = format!(
                "only references into the schema itself are supported, as '#/$defs/name'; this is '{text}'"
            );
            return Err(Refusal::new(pointer, message));
        };
        let place = percent_decoded(fragment);
        let schema = self
            .root
            .pointer(&place)
            .ok_or_else(|| Refusal::new(pointer, format!("nothing stands at '{text}'")))?;
        Ok(*self.names.entry(place.clone()).or_insert_with(|| {
            self.targets.push(Target { schema, pointer: place });
            self.targets.len() - 1
        }))
    }
}

/// A pointer to a member.
fn step(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A URI fragment's text; what is no escape stays as it is.
fn percent_decoded(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| fragment.to_owned())
}

fn types(value: &Value, pointer: &str) -> Copied {
    let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
    let fine = match value {
        Value::Array(names) => !names.is_empty() && names.iter().all(known),
        name => known(name),
    };
    if fine {
        Ok(value.clone())
    } else {
        Err(Refusal::new(pointer, format!("types are {}", TYPES.join(", "))))
    }
}

fn non_empty_list(value: &Value, pointer: &str) -> Copied {
    match value.as_array() {
        Some(values) if !values.is_empty() => Ok(value.clone()),
        _ => Err(Refusal::new(pointer, "this is a list of at least one value")),
    }
}

fn strings(value: &Value, pointer: &str) -> Copied {
    match value.as_array() {
        Some(values) if values.iter().all(Value::is_string) => Ok(value.clone()),
        _ => Err(Refusal::new(pointer, "this is a list of strings")),
    }
}

fn number(value: &Value, pointer: &str) -> Copied {
    // Draft 4 writes whether a bound is exclusive as a boolean beside it.
    if value.is_number() || value.is_boolean() {
        return Ok(value.clone());
    }
    Err(Refusal::new(pointer, "this is a number"))
}

fn positive(value: &Value, pointer: &str) -> Copied {
    match value.as_f64() {
        Some(number) if number > 0.0 => Ok(value.clone()),
        _ => Err(Refusal::new(pointer, "this is a number above 0")),
    }
}

/// A bound on a length or a count.
fn bound(keyword: &str, value: &Value, pointer: &str) -> Result<Option<Value>, Refusal> {
    // 2.0 is the integer 2 to JSON schema.
    let whole =
        value.as_u64().or_else(|| value.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0).map(|n| n as u64));
    match whole {
        None => Err(Refusal::new(
            pointer,
            format!("'{keyword}' is a whole number of at least 0; this is {value}"),
        )),
        Some(count) if count <= COUNT_MAX => Ok(Some(count.into())),
        Some(_) if keyword.starts_with("max") => Ok(None),
        Some(count) => {
            Err(Refusal::new(pointer, format!("'{keyword}' may be {COUNT_MAX} at most; it is {count}")))
        }
    }
}

/// Keys that are not named could come twice, and count once then.
fn check_distinct(
    all: &Map<String, Value>,
    keyword: &str,
    value: &Value,
    pointer: &str,
) -> Result<(), Refusal> {
    let required = all.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    match value.as_u64() {
        Some(least) if keyword == "minProperties" && least > required + 1 => {
            let message = format!(
                "'minProperties' may be 1 above the number of 'required' properties, which is {required}; it is {least}. \
                 Name the properties that must be there"
            );
            Err(Refusal::new(pointer, message))
        }
        _ => Ok(()),
    }
}

/// A format, where it concerns strings.
fn format(all: &Map<String, Value>, value: &Value, pointer: &str) -> Result<Option<Value>, Refusal> {
    let concerns_strings = match all.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|name| name == "string"),
        Some(name) => name == "string",
    };
    match value.as_str() {
        _ if !concerns_strings => Ok(None),
        Some(name) if FORMATS.contains(&name) => Ok(Some(value.clone())),
        _ => {
            let message = format!("the format {value} is not supported; {} are", FORMATS.join(", "));
            Err(Refusal::new(pointer, message))
        }
    }
}

#[cfg(test)]
mod tests;
