"""Record llama.cpp's perplexity of perplexity.txt, which the worker's own is compared with.

    python perplexity.py --smollm2 smollm2.gguf --gemma3 gemma3.gguf --out .

The first 4,096 tokens of the text are cut into chunks of 512, each computed in an empty context; where the model begins
texts with a BOS, that takes the place of each chunk's first token. The second half of each chunk is scored: the mean of
the negative logarithms of the probabilities that tokens 256 to 511 have after those before them.
"""

import argparse
import json
from pathlib import Path

import llama_cpp as ll
import numpy as np

from record import GEMMA3_SHA256, SMOLLM2_SHA256, Model, check, log_errors

TOKENS, CHUNK, SCORED_FROM = 4096, 512, 256
FOLDER = Path(__file__).parent


def chunk_score(model, tokens):
    """The mean negative logarithm over the second half of one chunk."""
    model.clear()
    batch = ll.llama_batch_init(CHUNK, 0, 1)
    batch.n_tokens = CHUNK
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        batch.logits[index] = index >= SCORED_FROM - 1
    assert ll.llama_decode(model.context, batch) == 0
    total = 0.0
    for index in range(SCORED_FROM, CHUNK):
        row = np.ctypeslib.as_array(ll.llama_get_logits_ith(model.context, index - 1), (model.n_vocab,))
        logits = row.astype(np.float64)
        highest = logits.max()
        total += highest + np.log(np.exp(logits - highest).sum()) - logits[tokens[index]]
    ll.llama_batch_free(batch)
    return total / (CHUNK - SCORED_FROM)


def scores(model, text):
    """The means of all chunks."""
    tokens = model.tokenize(text, add_special=False, parse_special=False)[:TOKENS]
    assert len(tokens) == TOKENS, f"the text has {len(tokens)} tokens"
    starts_with_bos = ll.llama_vocab_get_add_bos(model.vocab)
    chunks = [tokens[start:start + CHUNK] for start in range(0, TOKENS, CHUNK)]
    for chunk in chunks:
        if starts_with_bos:
            chunk[0] = ll.llama_vocab_bos(model.vocab)
    return [chunk_score(model, chunk) for chunk in chunks]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smollm2", type=Path, required=True, metavar="PATH")
    parser.add_argument("--gemma3", type=Path, required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    ll.llama_log_set(log_errors, None)
    text = (FOLDER / "perplexity.txt").read_text(encoding="utf-8")
    cases = []
    for path, sha256, file in (
        (args.smollm2, SMOLLM2_SHA256, "smollm2-135m-instruct.gguf"),
        (args.gemma3, GEMMA3_SHA256, "gemma-3-270m.gguf"),
    ):
        check(path, sha256)
        for flash_attention in (False, True):
            means = scores(Model(path, sha256, flash_attention=flash_attention), text)
            cases.append({
                "model": file,
                "flash_attention": flash_attention,
                "perplexity": round(float(np.exp(np.mean(means))), 5),
                "chunks": [round(float(mean), 6) for mean in means],
            })
    lines = ",\n".join(json.dumps(case) for case in cases)
    header = json.dumps({"oracle": f"llama-cpp-python {ll.__version__}", "tokens": TOKENS, "chunk": CHUNK,
                         "scored_from": SCORED_FROM})
    (args.out / "perplexity.json").write_text(f'{header[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="ascii")


if __name__ == "__main__":
    main()
