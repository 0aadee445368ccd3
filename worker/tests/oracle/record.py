"""Record llama.cpp's answers, which the worker's tests compare the worker's own with.

    python record.py --smollm2 smollm2.gguf --gemma3 gemma3.gguf --out .

Writes greedy.json, greedy_f32.json, greedy_gemma3.json, tokens_smollm2.json and
tokens_gemma3.json into --out.
What is asked lies in inputs.py; README.md describes the fields.
"""

import argparse
import ctypes
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp as ll
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inputs import CHATS, COMPLETIONS, STRINGS

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

N_CTX, N_BATCH, N_THREADS, MAX_TOKENS = 2048, 512, 2, 64
GREEDY = {
    "n_ctx": N_CTX, "n_batch": N_BATCH, "n_threads": N_THREADS, "kv": "f16",
    "flash_attention": False, "temperature": 0, "max_tokens": MAX_TOKENS,
}
TOKENIZE = {"add_bos": False, "special": False}


@ll.llama_log_callback
def log_errors(level, text, _):
    if level == 4:  # GGML_LOG_LEVEL_ERROR, which the binding does not name
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def check(path, sha256):
    """End the script unless the file is the one that the recording is of."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(f"{path}: sha256 is {found}, expected {sha256}")


def dequantise(source, target):
    """Copy a GGUF file with every tensor in F32; of its metadata, only the file type changes."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)  # which writes the architecture by itself
    for name, field in reader.fields.items():
        if name == gguf.Keys.General.FILE_TYPE:
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        elif name != gguf.Keys.General.ARCHITECTURE and not name.startswith("GGUF."):
            kind, *parts = field.types
            writer.add_key_value(name, field.contents(), kind, parts[-1] if parts else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Model:
    """A model and one context of it; sha256 is that of the published file."""

    def __init__(self, path, sha256, kv=ll.GGML_TYPE_F16, flash_attention=False, n_ctx=N_CTX):
        self.sha256 = sha256
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(str(path).encode(), params)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.n_vocab = ll.llama_vocab_n_tokens(self.vocab)
        params = ll.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_threads = params.n_threads_batch = N_THREADS
        params.type_k = params.type_v = kv
        params.flash_attn_type = (ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention
                                  else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        self.context = ll.llama_init_from_model(self.model, params)

    def tokenize(self, text, add_special, parse_special):
        """add_special adds what the model's metadata asks for: a BOS, or nothing."""
        data = text.encode()
        ids = (ll.llama_token * (len(data) + 2))()
        n = ll.llama_tokenize(
            self.vocab, data, len(data), ids, len(ids), add_special, parse_special)
        assert n >= 0
        return ids[:n]

    def piece(self, token):
        """The bytes of a token; none for a control token."""
        buffer = ctypes.create_string_buffer(256)
        n = ll.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
        assert n >= 0
        return buffer.raw[:n]

    def render(self, messages):
        """The messages in the model's own chat template, as Hugging Face renders it."""
        def text_of(token):
            return ll.llama_vocab_get_text(self.vocab, token).decode()

        template = ll.llama_model_chat_template(self.model, None).decode()
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return env.from_string(template).render(
            messages=messages, add_generation_prompt=True,
            bos_token=text_of(ll.llama_vocab_bos(self.vocab)),
            eos_token=text_of(ll.llama_vocab_eos(self.vocab)))

    def logits(self, tokens):
        """Evaluate tokens after what is in the context; the logits after the last of them."""
        for start in range(0, len(tokens), N_BATCH):
            chunk = tokens[start:start + N_BATCH]
            array = (ll.llama_token * len(chunk))(*chunk)
            assert ll.llama_decode(self.context, ll.llama_batch_get_one(array, len(chunk))) == 0
        row = ll.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, (self.n_vocab,))

    def clear(self):
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def greedy(self, prompt):
        """Take the likeliest token until one ends the answer or MAX_TOKENS are made."""
        tokens, top2 = self.tokenize(prompt, add_special=True, parse_special=True), []
        case = {"prompt_tokens": tokens, "tokens": [], "text": "", "top2": top2}
        self.clear()
        while len(top2) < MAX_TOKENS:
            logits = self.logits(tokens)
            first, second = (int(i) for i in np.argsort(-logits, kind="stable")[:2])
            top2.append([first, round(float(logits[first]), 5),
                         second, round(float(logits[second]), 5)])
            tokens = [first]
            case["tokens"].append(first)
            if ll.llama_vocab_is_eog(self.vocab, first):
                break
        text = b"".join(self.piece(token) for token in case["tokens"])
        case["text"] = text.decode(errors="replace")
        return case

    def end_tokens(self):
        return [t for t in range(self.n_vocab) if ll.llama_vocab_is_eog(self.vocab, t)]

    def chats(self):
        return [{"messages": chat} | self.greedy(self.render(chat)) for chat in CHATS]

    def string(self, text):
        return {"text": text, "ids": self.tokenize(text, add_special=False, parse_special=False)}


def write(path, model, settings, cases):
    """One case a line, in plain ASCII."""
    def dump(value):
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    header = dump({
        "oracle": f"llama-cpp-python {ll.__version__}",
        "model_sha256": model.sha256,
        "settings": settings,
    })
    lines = ",\n".join(dump(case) for case in cases)
    path.write_text(f'{header[:-1]},"cases":[\n{lines}\n]}}\n', encoding="ascii")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smollm2", type=Path, required=True, metavar="PATH")
    parser.add_argument("--gemma3", type=Path, required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    ll.llama_log_set(log_errors, None)
    args.out.mkdir(parents=True, exist_ok=True)

    check(args.smollm2, SMOLLM2_SHA256)
    smollm2 = Model(args.smollm2, SMOLLM2_SHA256)
    settings = GREEDY | {"end_tokens": smollm2.end_tokens()}
    write(args.out / "greedy.json", smollm2, settings, smollm2.chats())
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "f32.gguf")
        dequantise(args.smollm2, copy)
        f32 = Model(copy, SMOLLM2_SHA256)
        write(args.out / "greedy_f32.json", f32,
              settings | {"weights": "dequantised to F32"}, f32.chats())
    write(args.out / "tokens_smollm2.json", smollm2, TOKENIZE, map(smollm2.string, STRINGS))

    check(args.gemma3, GEMMA3_SHA256)
    gemma3 = Model(args.gemma3, GEMMA3_SHA256)
    write(args.out / "greedy_gemma3.json", gemma3, GREEDY | {"end_tokens": gemma3.end_tokens()},
          [{"prompt": text} | gemma3.greedy(text) for text in COMPLETIONS])
    write(args.out / "tokens_gemma3.json", gemma3, TOKENIZE, map(gemma3.string, STRINGS))


if __name__ == "__main__":
    main()
