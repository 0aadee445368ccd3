"""Records what transformers and sentence-transformers make of texts: for small encoders of every family, whose weights a
formula makes, and for all-MiniLM-L6-v2. Run: embeddings.py --minilm FOLDER --out FOLDER"""

import argparse
import base64
import json
from pathlib import Path

import numpy
import torch
import transformers
from sentence_transformers import SentenceTransformer

from texts import texts

SHAPE = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LENGTHS = (1, 2, 7, 23, 64)
MINILM_TEXTS = 64


def families():
    """Each family's class and configuration."""
    plain = SHAPE | {"intermediate_size": 96, "max_position_embeddings": 82}
    modern = SHAPE | {
        "intermediate_size": 48, "max_position_embeddings": 200, "local_attention": 16, "pad_token_id": 0,
        "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
    }
    t = transformers
    return {
        "bert": (t.BertModel, t.BertConfig(**plain)),
        "roberta": (t.RobertaModel, t.RobertaConfig(**plain, type_vocab_size=1, pad_token_id=1)),
        "distilbert": (t.DistilBertModel, t.DistilBertConfig(
            vocab_size=300, dim=64, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=82)),
        "nomic": (t.NomicBertModel, t.NomicBertConfig(**plain)),
        "modernbert": (t.ModernBertModel, t.ModernBertConfig(**modern)),
        "bert-rerank": (t.BertForSequenceClassification, t.BertConfig(**plain, num_labels=1)),
        "xlm-roberta-rerank": (t.XLMRobertaForSequenceClassification, t.XLMRobertaConfig(
            **plain, type_vocab_size=1, pad_token_id=1, num_labels=1)),
        "modernbert-rerank": (t.ModernBertForSequenceClassification, t.ModernBertConfig(
            **modern, num_labels=1, classifier_pooling="mean")),
    }


def weights(name, shape):
    """Numbers that follow from a tensor's name: splitmix64 over its 64-bit FNV-1a hash."""
    mask = (1 << 64) - 1
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & mask
    index = numpy.arange(1, int(numpy.prod(shape)) + 1, dtype=numpy.uint64)
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + index * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    unit = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 23) - numpy.float32(1)
    is_norm = len(shape) == 1 and name.endswith(".weight")
    spread, centre = (0.125, 1.0) if is_norm else (0.25, 0.0)
    return (unit * numpy.float32(spread) + numpy.float32(centre)).reshape(shape)


def record_family(make, config, folder):
    model = make(config).eval()
    model.save_pretrained(folder)
    from safetensors.numpy import load_file, save_file
    stored = load_file(folder / "model.safetensors")
    filled = {name: weights(name, tensor.shape) for name, tensor in stored.items()}
    save_file(filled, folder / "model.safetensors", metadata={"format": "pt"})
    model = make.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(3)
    cases = []
    for length in LENGTHS:
        ids = torch.randint(5, 295, (1, length), generator=generator)
        with torch.no_grad():
            answer = model(input_ids=ids)
        is_head = hasattr(answer, "logits")
        numbers = answer.logits[0] if is_head else answer.last_hidden_state[0].mean(0)
        cases.append({"ids": ids[0].tolist(), "numbers": [round(number, 6) for number in numbers.tolist()]})
    return {
        "config": json.loads((folder / "config.json").read_text()),
        "tensors": {name: list(tensor.shape) for name, tensor in sorted(stored.items())},
        "cases": cases,
    }


def record_minilm(folder):
    model = SentenceTransformer(str(folder), device="cpu")
    chosen = texts()[:: max(1, len(texts()) // MINILM_TEXTS)][:MINILM_TEXTS]
    chosen = [text for text in chosen if len(model.tokenizer(text)["input_ids"]) <= model.max_seq_length]
    vectors = model.encode(chosen, batch_size=1, convert_to_numpy=True)
    as_text = lambda vector: base64.b64encode(vector.astype("<f2").tobytes()).decode()
    return [{"text": text, "vector": as_text(vector)} for text, vector in zip(chosen, vectors)]


def write(path, record):
    head = {key: value for key, value in record.items() if key != "cases"}
    lines = [json.dumps(case, ensure_ascii=False) for case in record["cases"]]
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--minilm", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--work", type=Path, default=Path("/tmp/tiny-encoders"))
    arguments = arguments.parse_args()
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    recorded = []
    for name, (make, config) in families().items():
        recorded.append({"family": name} | record_family(make, config, arguments.work / name))
    write(arguments.out / "encoders.json", {"oracle": versions, "cases": recorded})
    write(arguments.out / "minilm.json", {"oracle": versions, "cases": record_minilm(arguments.minilm)})


if __name__ == "__main__":
    main()
