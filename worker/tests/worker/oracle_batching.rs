//! What `batching` asks of models of random weights, asked of a real one.

use crate::batching::{Load, company_cache_and_lack_of_memory_change_nothing};
use crate::oracle::model_path;

#[test]
fn smollm2_answers_depend_on_nobody_else() {
    let load = Load { words_max: 90, long_tokens: 100, scarce_mb: "10" };
    company_cache_and_lack_of_memory_change_nothing(&model_path("smollm2-135m-instruct.gguf"), &load);
}
