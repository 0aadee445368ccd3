"""Measure how far llama.cpp agrees with its own recorded answers when its settings change.

    python agreement.py --smollm2 smollm2.gguf

Reads greedy.json and greedy_f32.json, which lie beside it, and prints the table in README.md.

Each recorded prompt and answer is fed to the model under other settings, token by token, and at
every step the likeliest token is compared with the recorded one. Up to the first flip that is
what the model would have written by itself, so a case without a flip is an answer that is equal.
"""

import argparse
import json
import tempfile
from pathlib import Path

import llama_cpp as ll

from record import SMOLLM2_SHA256, Model, check, dequantise, log_errors


def measure(model, cases, single=False):
    """A row of the table; single feeds the prompt token by token."""
    equal = steps = flips = 0
    widest = furthest = 0.0
    for case in cases:
        prompt, before = case["prompt_tokens"], flips
        model.clear()
        if single:
            for token in prompt[:-1]:
                model.logits([token])
            prompt = prompt[-1:]
        for fed, (first, high, second, low) in zip(
                [prompt] + [[token] for token in case["tokens"]], case["top2"]):
            logits = model.logits(fed)
            steps += 1
            furthest = max(furthest, abs(logits[first] - high), abs(logits[second] - low))
            if logits.argmax() != first:
                flips += 1
                widest = max(widest, high - low)
        equal += flips == before
    gap = f"{widest:.5f}" if flips else "-"
    return f"{equal} of {len(cases)} | {flips} of {steps} | {gap} | {furthest:.5f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smollm2", type=Path, required=True, metavar="PATH")
    args = parser.parse_args()
    ll.llama_log_set(log_errors, None)
    check(args.smollm2, SMOLLM2_SHA256)

    def cases(name):
        return json.loads((Path(__file__).parent / name).read_text(encoding="ascii"))["cases"]

    def row(record, change, path, single=False, **settings):
        model = Model(path, SMOLLM2_SHA256, **settings)
        print(f"| `{record}` | {change} | {measure(model, cases(record), single)} |", flush=True)

    print("| record | change | equal answers | flips | widest gap at a flip | furthest logit |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "f32.gguf")
        dequantise(args.smollm2, copy)
        row("greedy.json", "prompt token by token", args.smollm2, single=True)
        row("greedy.json", "flash attention on", args.smollm2, flash_attention=True)
        row("greedy.json", "weights dequantised to F32", copy)
        row("greedy_f32.json", "prompt token by token", copy, single=True)
        row("greedy_f32.json", "flash attention on", copy, flash_attention=True)
        row("greedy_f32.json", "f32 KV", copy, kv=ll.GGML_TYPE_F32)


if __name__ == "__main__":
    main()
