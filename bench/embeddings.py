"""Sentences a second at batch 32: the worker, onnxruntime and sentence-transformers, in alternating runs on the same texts and
threads. Also the cosine of the worker's vectors with sentence-transformers' on 200 texts.

Prints a table and writes bench/results/embeddings-<date>.json."""

import argparse
import base64
import datetime
import http.client
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy

sys.path.insert(0, str(Path(__file__).parent.parent / "worker/tests/oracle"))
from machine import await_idle, machine, spread  # noqa: E402
from processes import Worker  # noqa: E402
from texts import texts  # noqa: E402

FOLDER = Path(__file__).parent
MODEL = "all-minilm-l6-v2"
BATCH = 32


def lengths_of_prose(words, count):
    """Sentences of 6 to 40 words, as search engines embed them: the same for every engine."""
    found, at = [], 0
    for index in range(count):
        length = 6 + index * 17 % 35
        found.append(" ".join(words[(at + place) % len(words)] for place in range(length)))
        at += length
    return found


class Ours:
    """The worker, asked over HTTP for base64, as official clients ask."""

    name = "worker-rbee"

    def __init__(self, programs, model, threads, precision):
        self.worker = Worker(programs, model, "--threads", str(threads), "--precision", precision)
        self.connection = http.client.HTTPConnection(urlsplit(self.worker.url).netloc)

    def ask(self, method, path, body):
        self.connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def encode(self, batch):
        status, answer = self.ask("POST", "/v1/embed", {"input": batch, "encoding_format": "base64", "truncate": True})
        assert status == 200, answer
        return numpy.stack([numpy.frombuffer(base64.b64decode(text), "<f4") for text in answer["embeddings"]])

    def close(self):
        self.worker.__exit__()


class SentenceTransformers:
    name = "sentence-transformers"

    def __init__(self, model, threads):
        import torch
        from sentence_transformers import SentenceTransformer
        torch.set_num_threads(threads)
        self.model = SentenceTransformer(str(model), device="cpu")

    def encode(self, batch):
        return self.model.encode(batch, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)

    def close(self):
        pass


class OnnxRuntime:
    """The graph as exported by torch, attention, GELU and norms fused by onnxruntime's own optimizer for BERT; mean pooling
    and norm in numpy."""

    name = "onnxruntime"

    def __init__(self, model, threads):
        import onnxruntime
        from tokenizers import Tokenizer
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(export(model), options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(int64)": numpy.int64, "tensor(int32)": numpy.int32}
        self.kinds = {one.name: kinds[one.type] for one in self.session.get_inputs()}

    def encode(self, batch):
        encoded = self.tokenizer.encode_batch(batch)
        ids = numpy.array([one.ids for one in encoded], self.kinds["input_ids"])
        mask = numpy.array([one.attention_mask for one in encoded], self.kinds["attention_mask"])
        hidden = self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled / numpy.linalg.norm(pooled, axis=1, keepdims=True)

    def close(self):
        pass


def export(model):
    """Writes the encoder as ONNX, once."""
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel
    path = Path(tempfile.gettempdir()) / "rbee-bench-minilm.onnx"
    fused = path.with_suffix(".fused.onnx")
    if not fused.exists():
        encoder = AutoModel.from_pretrained(model, attn_implementation="eager").eval()

        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = encoder

            def forward(self, input_ids, attention_mask):
                return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

        ids = torch.ones(2, 8, dtype=torch.long)
        axes = {0: "batch", 1: "tokens"}
        torch.onnx.export(
            Hidden(), (ids, ids), str(path), input_names=["input_ids", "attention_mask"], output_names=["hidden"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes}, dynamo=False, opset_version=17)
        heads, width = encoder.config.num_attention_heads, encoder.config.hidden_size
        graph = optimizer.optimize_model(str(path), "bert", num_heads=heads, hidden_size=width, opt_level=1)
        graph.save_model_to_file(str(fused))
    return str(fused)


def rate(engine, batches):
    start = time.perf_counter()
    for batch in batches:
        engine.encode(batch)
    return sum(map(len, batches)) / (time.perf_counter() - start)


def compare(engines, sentences, rounds):
    """The median of alternating runs, so that what the machine does besides falls on all."""
    batches = [sentences[start : start + BATCH] for start in range(0, len(sentences), BATCH)]
    rates = {engine.name: [] for engine in engines}
    for engine in engines:
        engine.encode(batches[0])
    for _ in range(rounds):
        await_idle()
        for engine in engines:
            rates[engine.name].append(rate(engine, batches))
    found = {name: spread(of_engine) for name, of_engine in rates.items()}
    ours, *others = (found[engine.name]["median"] for engine in engines)
    return found | {"ratio_to_the_better": round(ours / max(others), 3)}


def cosines(worker, reference):
    chosen = texts()
    ours = numpy.concatenate([worker.encode(chosen[start : start + 25]) for start in range(0, len(chosen), 25)])
    theirs = reference.model.encode(chosen, batch_size=1, convert_to_numpy=True, show_progress_bar=False)
    found = (ours * theirs).sum(1) / numpy.linalg.norm(ours, axis=1) / numpy.linalg.norm(theirs, axis=1)
    return {"texts": len(chosen), "lowest": float(found.min()), "median": float(numpy.median(found))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="what the worker multiplies in: auto, f32 or bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=256)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    model = Path(os.environ["RBEE_TEST_MODELS"]) / MODEL
    worker = Ours(Path(os.environ["RBEE_BIN_DIR"]), model, options.threads, options.precision)
    reference = SentenceTransformers(model, options.threads)
    engines = [worker, OnnxRuntime(model, options.threads), reference]
    words = [word for text in texts()[:40] for word in text.split() if word.isascii() and len(word) > 1]
    sentences = {
        "6 to 40 words": lengths_of_prose(words, options.sentences),
        "20 words": [" ".join((words * 3)[at % 90 : at % 90 + 20]) for at in range(options.sentences)],
    }
    date = datetime.date.today().isoformat()
    results = {
        "date": date,
        "machine": machine(),
        "threads": options.threads,
        "precision": options.precision,
        "cosine": cosines(worker, reference),
        "sentences_per_second": {name: compare(engines, of, options.rounds) for name, of in sentences.items()},
    }
    for engine in engines:
        engine.close()
    path = FOLDER / "results" / f"embeddings-{date}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    report(results, path)


def report(results: dict, path: Path):
    """Medians in sentences a second, and the ratio to the better of the others."""
    print(f"cosine with sentence-transformers: {json.dumps(results['cosine'])}\n")
    for name, found in results["sentences_per_second"].items():
        rates = "  ".join(f"{engine} {of['median']:.1f}" for engine, of in found.items() if isinstance(of, dict))
        print(f"{name:14} {rates}  ratio {found['ratio_to_the_better']:.2f}")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
