"""Every answer of every test, held to the SDK's own types.

The SDK builds its objects unchecked: what is missing becomes None, and what has the wrong type stays as it came. Here each
answer is read a second time, as it came over the wire, and strictly. `watch` is a hook of the HTTP client, and `violations` is
what a fixture looks at after each test: no test can forget it.
"""

import base64
import json
import re
import struct
from collections import Counter
from typing import Literal, NamedTuple, Optional

import httpx2
from openai.types import (
    Batch,
    Completion,
    CompletionChoice,
    CreateEmbeddingResponse,
    FileDeleted,
    FileObject,
    Model,
)
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionDeleted,
    ChatCompletionStoreMessage,
)
from openai.types.completion_choice import Logprobs
from openai.types.responses import (
    InputTokenCountResponse,
    Response,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseItemList,
    ResponseStreamEvent,
)
from openai.types.shared import ErrorObject
from pydantic import BaseModel, TypeAdapter, ValidationError

violations: list[str] = []


class ErrorEnvelope(BaseModel):
    error: ErrorObject


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


# In the form of vLLM's clients: OpenAI has none.
class Tokenized(BaseModel, extra="forbid"):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: Optional[list[str]]


class Detokenized(BaseModel, extra="forbid"):
    prompt: str


# OpenAI gives the first token of an echoed prompt null, which the SDK's types do not tell.
class EchoedLogprobs(Logprobs):
    token_logprobs: Optional[list[Optional[float]]] = None
    top_logprobs: Optional[list[Optional[dict[str, float]]]] = None


class WholeChoice(CompletionChoice):
    logprobs: Optional[EchoedLogprobs] = None


class WholeCompletion(Completion):
    choices: list[WholeChoice]


# Nor do they tell that a choice of a stream has no end before its end.
class StreamedChoice(WholeChoice):
    finish_reason: Optional[Literal["stop", "length", "content_filter"]] = None


class StreamedCompletion(Completion):
    choices: list[StreamedChoice]


class Page(BaseModel):
    object: Literal["list"]
    first_id: Optional[str]
    last_id: Optional[str]
    has_more: bool


class CompletionPage(Page):
    data: list[ChatCompletion]


# The SDK's type is that of an answer; what is listed are the messages that were answered.
class StoredMessage(ChatCompletionStoreMessage):
    role: str
    name: Optional[str] = None
    tool_call_id: Optional[str] = None


class MessagePage(Page):
    data: list[StoredMessage]


class FilePage(Page):
    data: list[FileObject]


class BatchPage(Page):
    data: list[Batch]


class ResponseDeleted(BaseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class Answer(NamedTuple):
    """What an endpoint says, whole and as a stream's frame."""

    whole: type[BaseModel]
    frame: object = None


ANSWERS = {
    r"POST /chat/completions": Answer(ChatCompletion, ChatCompletionChunk),
    r"GET /chat/completions": Answer(CompletionPage),
    r"(GET|POST) /chat/completions/[^/]+": Answer(ChatCompletion),
    r"DELETE /chat/completions/[^/]+": Answer(ChatCompletionDeleted),
    r"GET /chat/completions/[^/]+/messages": Answer(MessagePage),
    r"POST /completions": Answer(WholeCompletion, StreamedCompletion),
    r"POST /embeddings": Answer(CreateEmbeddingResponse),
    r"GET /models": Answer(ModelList),
    r"GET /models/[^/]+": Answer(Model),
    r"POST /responses": Answer(Response, ResponseStreamEvent),
    r"POST /responses/input_tokens": Answer(InputTokenCountResponse),
    r"GET /responses/[^/]+": Answer(Response, ResponseStreamEvent),
    r"POST /responses/[^/]+/cancel": Answer(Response),
    r"DELETE /responses/[^/]+": Answer(ResponseDeleted),
    r"GET /responses/[^/]+/input_items": Answer(ResponseItemList),
    r"POST /files": Answer(FileObject),
    r"GET /files": Answer(FilePage),
    r"GET /files/[^/]+": Answer(FileObject),
    r"DELETE /files/[^/]+": Answer(FileDeleted),
    r"POST /batches": Answer(Batch),
    r"GET /batches": Answer(BatchPage),
    r"GET /batches/[^/]+": Answer(Batch),
    r"POST /batches/[^/]+/cancel": Answer(Batch),
    r"POST /tokenize": Answer(Tokenized),
    r"POST /detokenize": Answer(Detokenized),
}
BASE_PATH = re.compile(r"/openai/v1|/openai|/v1")

# What we say beyond the SDK's types, by type. Anything else is a slip of the pen.
EXTENSIONS = {
    ChatCompletion: {"metadata"},
    ErrorObject: {"details", "correlation_id", "retriable", "retry_after_ms"},
    Model: {"state", "context_length", "kind", "root"},
    # OpenAI's own interface says these too.
    Response: {"store"},
    ResponseFunctionCallArgumentsDoneEvent: {"name"},
}


def watch(response: httpx2.Response):
    """Looks at an answer while the test reads it."""
    response.stream = WatchedStream(response.stream, reader(response))


async def watch_async(response: httpx2.Response):
    watch(response)


class WatchedStream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The bytes as they are; a reader gets them too."""

    def __init__(self, stream, reader):
        self.stream, self.reader = stream, reader

    def __iter__(self):
        for chunk in self.stream:
            self.reader.take(chunk)
            yield chunk
        self.reader.end()

    async def __aiter__(self):
        async for chunk in self.stream:
            self.reader.take(chunk)
            yield chunk
        self.reader.end()

    def close(self):
        self.stream.close()

    async def aclose(self):
        await self.stream.aclose()


def reader(response: httpx2.Response):
    request = response.request
    what = f"{request.method} {request.url.path} → {response.status_code}"
    if response.status_code >= 400:
        return WholeReader(what, ErrorEnvelope)
    if response.headers["content-type"] == "application/octet-stream":
        return AnyReader()
    path = BASE_PATH.sub("", request.url.path, count=1)
    asked = f"{request.method} {path}"
    answers = [answer for pattern, answer in ANSWERS.items() if re.fullmatch(pattern, asked)]
    if not answers:
        violations.append(f"{what}: strict.py knows no type for this path")
        return WholeReader(what, BaseModel)
    [answer] = answers
    if response.headers["content-type"].startswith("text/event-stream"):
        return (EventReader if answer.frame is ResponseStreamEvent else FrameReader)(what, answer.frame)
    return WholeReader(what, answer.whole, is_base64=path == "/embeddings" and b'"encoding_format":"base64"' in request.content)


class AnyReader:
    """Bytes of which nothing is expected."""

    def take(self, chunk: bytes):
        pass

    def end(self):
        pass


class WholeReader:
    """An answer in one piece."""

    def __init__(self, what: str, type_: type[BaseModel], is_base64=False):
        self.what, self.type, self.is_base64, self.raw = what, type_, is_base64, b""

    def take(self, chunk: bytes):
        self.raw += chunk

    def end(self):
        if self.is_base64:
            self.raw = decoded(self.raw)
        check(self.what, self.type, self.raw)


class FrameReader:
    """A stream: each frame has the type, all have one head, each choice ends once, and `[DONE]` or an error is last."""

    def __init__(self, what: str, type_: type[BaseModel]):
        self.what, self.type = what, type_
        self.rest, self.last = b"", b""
        self.heads: set[tuple] = set()
        self.choices: set[int] = set()
        self.ends: Counter[int] = Counter()

    def take(self, chunk: bytes):
        *frames, self.rest = (self.rest + chunk).split(b"\n\n")
        for frame in frames:
            if not frame.startswith(b":"):
                self.take_frame(frame)

    def take_frame(self, frame: bytes):
        self.expect(self.last != b"[DONE]", "a frame after [DONE]")
        self.expect(frame.startswith(b"data: ") and b"\n" not in frame, f"not one line of data: {frame!r}")
        self.last = frame.removeprefix(b"data: ")
        if self.last == b"[DONE]":
            return
        if self.last.startswith(b'{"error"'):
            check(self.what, ErrorEnvelope, self.last)
            return
        if (chunk := check(self.what, self.type, self.last)) is None:
            return
        self.heads.add((chunk.id, chunk.object, chunk.created, chunk.model, chunk.system_fingerprint))
        for choice in chunk.choices:
            self.expect(choice.index not in self.ends, f"choice {choice.index} goes on after its end")
            self.choices.add(choice.index)
            if choice.finish_reason is not None:
                self.ends[choice.index] += 1

    def end(self):
        self.expect(not self.rest, f"half a frame: {self.rest!r}")
        self.expect(len(self.heads) <= 1, f"several heads: {self.heads}")
        if self.last.startswith(b'{"error"'):
            return
        self.expect(self.last == b"[DONE]", f"the last frame is {self.last!r}")
        self.expect(set(self.ends) == self.choices, f"choices {self.choices}, of which ended {set(self.ends)}")

    def expect(self, holds: bool, otherwise: str):
        if not holds:
            violations.append(f"{self.what}: {otherwise}")


class EventReader:
    """A stream of named events: each has the type of its name, and they are numbered; the last one tells the end."""

    LAST = ("response.completed", "response.incomplete", "response.failed")

    def __init__(self, what: str, type_: object):
        self.what, self.type = what, type_
        self.rest, self.count, self.last = b"", 0, ""

    def take(self, chunk: bytes):
        *frames, self.rest = (self.rest + chunk).split(b"\n\n")
        for frame in frames:
            if not frame.startswith(b":"):
                self.take_frame(frame)

    def take_frame(self, frame: bytes):
        name, data = frame.split(b"\n")
        if (event := check(self.what, self.type, data.removeprefix(b"data: "))) is None:
            return
        self.expect(name == b"event: " + event.type.encode(), f"{event.type} is called {name!r}")
        # Who has seen a part is told the rest.
        self.count = self.count or event.sequence_number if "GET" in self.what else self.count
        self.expect(event.sequence_number == self.count, f"{event.sequence_number} comes as number {self.count}")
        self.expect(self.last not in self.LAST, f"{event.type} comes after {self.last}")
        self.count, self.last = self.count + 1, event.type

    def end(self):
        self.expect(not self.rest, f"half a frame: {self.rest!r}")
        self.expect(self.last in self.LAST, f"the last event is {self.last!r}")

    def expect(self, holds: bool, otherwise: str):
        if not holds:
            violations.append(f"{self.what}: {otherwise}")


def check(what: str, type_: object, raw: bytes) -> BaseModel | None:
    try:
        answer = TypeAdapter(type_).validate_json(raw, strict=True)
    except ValidationError as error:
        violations.append(f"{what}: {error}\n{raw[:2000]!r}")
        return None
    violations.extend(f"{what}: {name} is not in the SDK's types" for name in unknown_fields(answer))
    return answer


def unknown_fields(value: object):
    if isinstance(value, list):
        for item in value:
            yield from unknown_fields(item)
    elif isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            if name not in EXTENSIONS.get(type(value), ()):
                yield f"{type(value).__name__}.{name}"
        for name in type(value).model_fields:
            yield from unknown_fields(getattr(value, name))


def decoded(raw: bytes) -> bytes:
    """Vectors as numbers, as the SDK hands them out: its types do not tell of the form on the wire."""
    answer = json.loads(raw)
    for one in answer["data"]:
        packed = base64.b64decode(one["embedding"], validate=True)
        one["embedding"] = struct.unpack(f"<{len(packed) // 4}f", packed)
    return json.dumps(answer).encode()
