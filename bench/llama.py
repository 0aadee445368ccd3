"""Measures llama.cpp as `worker-rbee bench` measures the worker: same questions, one line of JSON.

It asks llama.cpp's C API directly, with no sampling and no text between the steps, which is llama.cpp at its best.
"""

import argparse
import ctypes
import json
import time

import llama_cpp as ll

# Any tokens do: their number sets the cost. The stride spreads them over the vocabulary.
STRIDE = 7_919


@ll.llama_log_callback
def silence(_level, _text, _):
    pass


class Context:
    """A model and a context for `streams` sequences."""

    def __init__(self, options):
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(options.model.encode(), params)
        assert self.model, f"llama.cpp cannot load {options.model}"
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        params = ll.llama_context_default_params()
        # llama.cpp divides the context among the sequences.
        params.n_ctx = options.streams * (options.prompt_tokens + options.new_tokens + 16)
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = options.streams
        params.n_threads = params.n_threads_batch = options.threads
        params.kv_unified = options.unified_kv
        on, off = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED, ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if options.flash_attention else off
        self.context = ll.llama_init_from_model(self.model, params)
        assert self.context, "llama.cpp cannot make a context"
        self.batch = ll.llama_batch_init(512, 0, 1)

    def clear(self):
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def decode(self, entries):
        """Computes (token, position, sequence, wants logits) entries in one call."""
        self.batch.n_tokens = len(entries)
        for index, (token, position, sequence, wants_logits) in enumerate(entries):
            self.batch.token[index] = token
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = sequence
            self.batch.logits[index] = wants_logits
        assert ll.llama_decode(self.context, self.batch) == 0
        # The call returns before the work is done; asking for the logits waits for it.
        assert ctypes.cast(ll.llama_get_logits(self.context), ctypes.c_void_p).value

    def prefill(self, sequence, length):
        """Reads a prompt of this length in batches of 512."""
        for start in range(0, length, 512):
            positions = range(start, min(start + 512, length))
            self.decode([(p * STRIDE % self.vocabulary, p, sequence, p == length - 1) for p in positions])

    def generate(self, streams, start, count):
        """A token of each stream in every step."""
        for position in range(start, start + count):
            token = position * STRIDE % self.vocabulary
            self.decode([((token + stream) % self.vocabulary, position, stream, True) for stream in range(streams)])


def measure(options):
    started = time.perf_counter()
    context = Context(options)
    load_seconds = time.perf_counter() - started
    streams, prompt, new = options.streams, options.prompt_tokens, options.new_tokens
    # Memory and threads in place, as the worker's own warm-up leaves them.
    context.prefill(0, min(prompt, 64))
    context.clear()
    started = time.perf_counter()
    for stream in range(streams):
        context.prefill(stream, prompt)
    prefill_seconds = time.perf_counter() - started
    started = time.perf_counter()
    context.generate(streams, prompt, new)
    decode_seconds = time.perf_counter() - started
    return {
        "prompt_tokens": prompt,
        "new_tokens": new,
        "streams": streams,
        "threads": options.threads,
        "load_seconds": load_seconds,
        "prefill_tokens_per_second": streams * prompt / prefill_seconds,
        "decode_tokens_per_second": streams * new / decode_seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash-attention", action="store_true")
    parser.add_argument("--unified-kv", action="store_true")
    parser.add_argument("--system-info", action="store_true", help="print what llama.cpp was built with, and end")
    options = parser.parse_args()
    ll.llama_log_set(silence, None)
    if options.system_info:
        print(json.dumps({"version": ll.__version__, "system": ll.llama_print_system_info().decode()}))
        return
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
