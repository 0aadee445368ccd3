//! Chat templates: programs that come with a model file and run in the worker.

use std::time::Duration;

use fastrand::Rng;
use protocol::worker::{Message, Tool, ToolCall};
use serde_json::{Map, json};
use worker::text::template::{ChatTemplate, Conversation};

use crate::driver::{Input, Limits, alone, fuzz};
use crate::mutate;

/// Pieces that templates are made of, the ones that loop, grow and recurse among them.
const PIECES: [&str; 60] = [
    "{% for m in messages %}",
    "{% for i in range(99999) %}",
    "{%- for k, v in messages[0].items() recursive -%}",
    "{{ loop(messages) }}",
    "{% endfor %}",
    "{% if m.role == 'user' %}",
    "{% elif not x is defined %}",
    "{% else %}",
    "{% endif %}",
    "{% set ns = namespace(s='aaaaaaaaaaaaaaaa', n=0) %}",
    "{% set ns.s = ns.s ~ ns.s %}",
    "{% set ns.s = ns.s + ns.s %}",
    "{% set ns.s = ns.s | replace('a', ns.s) %}",
    "{% set ns.s = ns.s.replace('a', ns.s) %}",
    "{% set ns.s = ns.s * 1000000 %}",
    "{% set ns.s = [ns.s, ns.s] %}",
    "{% set ns.n = ns.n * 99999999999 %}",
    "{% set x = [0] * 99999999 %}",
    "{{ x | tojson }}",
    "{{ x | tojson(indent=16) }}",
    "{{ ns | tojson }}",
    "{{ messages | tojson(indent=99999999999) }}",
    "{{ x | join(ns.s) }}",
    "{{ x | list | length }}",
    "{{ ns.s }}",
    "{{ ns.s | upper | trim | indent(99999999) }}",
    "{{ ns.s.split('a') | map('upper') | list }}",
    "{{ '%99999999d' | format(1) }}",
    "{{ 'a' | center(99999999) }}",
    "{{ 'a'.center(99999999) }}",
    "{{ 'a'.ljust(99999999).strip() }}",
    "{{ range(0, 99999999, 1) | list }}",
    "{{ messages | map(attribute='content') | join }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | sort }}",
    "{{ messages[0].content[::-1][:99999999] }}",
    "{{ messages[-1]['content'].title() }}",
    "{{ (1/0) ** 99 // 0 % 0 }}",
    "{{ 9223372036854775807 + 1 - 9223372036854775807 * 2 }}",
    "{{ 2 ** 99999999 }}",
    "{{ strftime_now('%Y-%m-%d %B %Q %') }}",
    "{{ raise_exception('no') }}",
    "{{ bos_token }}",
    "{{ eos_token }}",
    "{{ tools }}",
    "{% macro f(a) %}",
    "{{ f(a) }}{{ f(f) }}",
    "{% endmacro %}",
    "{% call f(1) %}",
    "{% endcall %}",
    "{% set body %}",
    "{% endset %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% include 'chat' %}",
    "{% extends 'chat' %}",
    "{% block b %}{{ super() }}{{ self.b() }}{% endblock %}",
    "{% raw %}{{{% endraw %}",
    "{% break %}{% continue %}",
    "{% generation %}x{% endgeneration %}",
    "{#- é -#} plain text\n   ",
];

/// Parts between which no cut is made often, so that most of what comes out is close to a program.
#[derive(Clone)]
struct Source(Vec<String>);

impl Input for Source {
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self {
        let mut parts = self.0.clone();
        let at = rng.usize(..=parts.len());
        let inside = at.min(parts.len().saturating_sub(1));
        match rng.u8(..9) {
            0..=3 => parts.insert(at, PIECES[rng.usize(..PIECES.len())].to_owned()),
            4 if !parts.is_empty() => drop(parts.remove(inside)),
            5 if !parts.is_empty() => {
                let nth = rng.usize(..parts.len());
                parts.swap(inside, nth);
            }
            6 => parts.extend(other.0.iter().skip(rng.usize(..=other.0.len())).take(8).cloned()),
            7 if !parts.is_empty() => {
                let mut bytes = parts[inside].clone().into_bytes();
                mutate::bytes(&mut bytes, b"((((((((((((((((not not not - - -[[[[[[[[[", rng);
                parts[inside] = String::from_utf8_lossy(&bytes).into_owned();
            }
            _ if !parts.is_empty() => parts[inside] = parts[inside].repeat(1 + rng.usize(..40)),
            _ => {}
        }
        parts.truncate(400);
        Self(parts)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.concat().into_bytes()
    }
}

/// Cuts a real template where its tags begin.
fn cut(source: &str) -> Source {
    Source(
        source.split_inclusive("%}").flat_map(|part| part.split_inclusive("}}")).map(str::to_owned).collect(),
    )
}

#[test]
fn chat_templates() {
    let alone = alone();
    let chatml = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nHi<|im_end|>\n' }}\
        {% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let growing =
        [9, 5, 10, 12, 4, 24].map(|nth| PIECES[nth]).concat().replace("{% if m.role == 'user' %}", "");
    let mut seeds = vec![cut(chatml), cut(&growing), cut(&PIECES.concat())];
    let recursive = "{% macro f(a) %}{{ f(a) }}{% endmacro %}{{ f(1) }}";
    seeds.extend([
        cut(recursive),
        cut(&format!("{{{{ {} }}}}", "(".repeat(3000))),
        cut(&"{% if 1 %}".repeat(3000)),
    ]);
    for header in crate::gguf::real_headers() {
        let read = worker::file::gguf::Header::read(&[&header[..], &[0; 64]].concat());
        // The header alone is no whole file; where tensors are checked against it, the template is not reached.
        seeds.extend(
            read.ok().and_then(|read| read.metadata(&header).text("tokenizer.chat_template").ok()?.map(cut)),
        );
    }
    let messages: Vec<Message> =
        [("system", "Be kind."), ("user", "Hé! <|im_end|>"), ("assistant", "a\nb"), ("user", "")]
            .into_iter()
            .map(|(role, content)| Message {
                role: role.to_owned(),
                content: content.to_owned(),
                ..Message::default()
            })
            .collect();
    let call =
        ToolCall { id: "c1".to_owned(), name: "f".to_owned(), arguments: "{\"a\": [1, {}]}".to_owned() };
    let called = Message { role: "assistant".to_owned(), tool_calls: vec![call], ..Message::default() };
    let messages = [messages, vec![called]].concat();
    let parameters = Some(json!({"type": "object", "properties": {"a": {"type": "array"}}}));
    let tools = [Tool { name: "f".to_owned(), description: None, parameters, strict: false }];
    let options = Map::new();
    // The fuel of one rendering buys 128 MB of texts, of which some are there three times for a moment, and less than a second.
    let limits = Limits { memory_factor: 500, memory_bytes: 400 << 20, time: Duration::from_secs(2) };
    fuzz(&alone, "template", seeds, &limits, |bytes| {
        let source = String::from_utf8_lossy(bytes);
        let template = ChatTemplate::compile(&source, "<s>", "</s>").map_err(|error| error.to_string())?;
        let conversation = Conversation { messages: &messages, tools: &tools, options: &options };
        template.render(&conversation).map(drop).map_err(|error| error.message)
    });
}
