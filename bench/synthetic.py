"""Writes models of about a billion parameters in a real shape, with random weights.

    python synthetic.py q4_k /path/to/model.gguf

The shape is that of a Llama of 1B: 16 layers, 2048 wide, feed-forward 8192, 32 query and 8 key heads, a vocabulary of
65,536, the head tied to the embedding. The blocks are random and valid: weights of mean 0 whose spread keeps the
activations in range. The tokenizer is the least that programs load: GPT-2's bytes, and fillers.
"""

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 16, 2048, 8192, 32, 8
VOCABULARY, CONTEXT = 65_536, 4096
HEAD_DIM = HIDDEN // HEADS
TYPES = {"q4_k": gguf.GGMLQuantizationType.Q4_K, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def q8_0_blocks(random, count, spread):
    """A scale in f16, then 32 signed bytes."""
    blocks = np.empty((count, 34), np.uint8)
    # Bytes that are evenly spread over their range have a deviation of 74.
    blocks[:, :2] = np.array([spread / 74], np.float16).view(np.uint8)
    blocks[:, 2:] = random.integers(0, 256, (count, 32), np.uint8)
    return blocks


def q4_k_blocks(random, count, spread):
    """A scale and a minimum in f16, eight scales and minima of 6 bits in 12 bytes, 256 values of 4 bits.

    A weight is d·s·q - dmin·m. With m = s and dmin = 7.5·d it is d·s·(q - 7.5): mean 0, whatever s is.
    """
    scales = random.integers(32, 64, (count, 8), np.uint8)
    # The deviation of q is 4.6, the mean of s 47.5.
    d = spread / (4.6 * 47.5)
    blocks = np.empty((count, 144), np.uint8)
    blocks[:, :4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
    low, high = scales[:, :4], scales[:, 4:]
    blocks[:, 4:8] = blocks[:, 8:12] = low | (high >> 4) << 6
    blocks[:, 12:16] = (high & 15) | (high & 15) << 4
    blocks[:, 16:] = random.integers(0, 256, (count, 128), np.uint8)
    return blocks


BLOCKS = {"q4_k": (q4_k_blocks, 256), "q8_0": (q8_0_blocks, 32)}


def weights(random, name, outputs, inputs):
    """The stored rows of an outputs × inputs matrix."""
    make, block_len = BLOCKS[name]
    blocks = make(random, outputs * inputs // block_len, inputs**-0.5)
    return blocks.reshape(outputs, -1)


def byte_alphabet():
    """The character that stands for each byte in GPT-2's vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(others))]


def add_tokenizer(writer):
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = [f"{first} {second}" for first in letters for second in letters]
    tokens = byte_alphabet() + [merge.replace(" ", "") for merge in merges]
    tokens += [f"<filler_{index}>" for index in range(len(tokens), VOCABULARY - 1)] + ["<|endoftext|>"]
    kinds = [gguf.TokenType.NORMAL] * (VOCABULARY - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_add_bos_token(False)


def add_header(writer, name):
    writer.add_name(f"synthetic 1B {name}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500_000.0)
    writer.add_vocab_size(VOCABULARY)


def matrices():
    """Names and outputs × inputs of all quantised tensors."""
    yield "token_embd.weight", VOCABULARY, HIDDEN
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_q.weight", HIDDEN, HIDDEN
        yield f"blk.{layer}.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN
        yield f"blk.{layer}.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN
        yield f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN
        yield f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, HIDDEN
        yield f"blk.{layer}.ffn_up.weight", FEED_FORWARD, HIDDEN
        yield f"blk.{layer}.ffn_down.weight", HIDDEN, FEED_FORWARD


def write(name, path):
    """Writes a model; a file under the final name is always whole."""
    random = np.random.default_rng(20_260_101)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama", use_temp_file=False)
    add_header(writer, name)
    add_tokenizer(writer)
    norms = ["output_norm.weight"]
    norms += [f"blk.{layer}.{norm}.weight" for layer in range(LAYERS) for norm in ("attn_norm", "ffn_norm")]
    for norm in norms:
        writer.add_tensor(norm, np.ones(HIDDEN, np.float32))
    for tensor, outputs, inputs in matrices():
        writer.add_tensor(tensor, weights(random, name, outputs, inputs), raw_dtype=TYPES[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("format", choices=sorted(BLOCKS))
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    options.path.parent.mkdir(parents=True, exist_ok=True)
    write(options.format, options.path)


if __name__ == "__main__":
    main()
