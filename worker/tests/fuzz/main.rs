//! What comes with a model file may be hostile. Each target here throws broken and malicious input at one reader and asks
//! for an answer or an error: no panic, no hang, no memory beyond a small multiple of the input.
//!
//! Under `cargo test` each target runs a fixed number of inputs, always the same. `make fuzz SECONDS=600` gives each that
//! time with new inputs. A finding is kept in a file that the report names.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a run reports what it did")]

mod driver;
mod gguf;
mod mutate;
mod safetensors;
mod template;
mod tokenizer;
mod tokenizer_json;

/// Knows how much memory an input took.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
