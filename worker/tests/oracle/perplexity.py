"""Record llama.cpp's perplexity of perplexity.txt, which the worker's own is compared with.

    python perplexity.py --smollm2 smollm2.gguf --gemma3 gemma3.gguf --out .

The whole text is one context, after a BOS where the model begins texts with one. Scored is every token but the first 256:
the mean of the negative logarithms of the probabilities that they have after those before them, and its exponential.
"""

import argparse
import json
from pathlib import Path

import llama_cpp as ll
import numpy as np

from record import GEMMA3_SHA256, N_BATCH, SMOLLM2_SHA256, Model, check, log_errors

SCORED_FROM, N_CTX = 256, 8192
FOLDER = Path(__file__).parent


def surprises(model, tokens):
    """The negative logarithm of each token's probability after those before it; none for the first."""
    batch = ll.llama_batch_init(N_BATCH, 0, 1)
    found = []
    for start in range(0, len(tokens) - 1, N_BATCH):
        inputs, wanted = tokens[start:start + N_BATCH], tokens[start + 1:start + 1 + N_BATCH]
        batch.n_tokens = len(inputs)
        for index, token in enumerate(inputs):
            batch.token[index], batch.pos[index] = token, start + index
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, True
        assert ll.llama_decode(model.context, batch) == 0
        for index, token in enumerate(wanted):
            row = np.ctypeslib.as_array(ll.llama_get_logits_ith(model.context, index), (model.n_vocab,))
            logits = row.astype(np.float64)
            highest = logits.max()
            found.append(highest + np.log(np.exp(logits - highest).sum()) - logits[token])
    ll.llama_batch_free(batch)
    return found


def score(model, text):
    """How many tokens the text has, and the mean surprise of those from SCORED_FROM on."""
    tokens = model.tokenize(text, add_special=True, parse_special=True)
    return len(tokens), float(np.mean(surprises(model, tokens)[SCORED_FROM - 1:]))


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
            tokens, mean = score(Model(path, sha256, flash_attention=flash_attention, n_ctx=N_CTX), text)
            cases.append({"model": file, "flash_attention": flash_attention, "tokens": tokens,
                          "perplexity": round(float(np.exp(mean)), 4)})
    lines = ",\n".join(json.dumps(case) for case in cases)
    header = json.dumps({"oracle": f"llama-cpp-python {ll.__version__}", "scored_from": SCORED_FROM})
    (args.out / "perplexity.json").write_text(f'{header[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="ascii")


if __name__ == "__main__":
    main()
