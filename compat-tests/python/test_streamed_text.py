"""A stream says what the whole answer says, and both count what the tokenizer counts: for prompts of many languages and for
characters of many bytes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import MODEL, make_client

SUBJECTS = [
    "the sea", "bread", "a bridge", "the moon", "Amsterdam", "rain", "a violin", "prime numbers", "tea", "a lighthouse",
    "the French Revolution", "rust", "photosynthesis", "chess", "a queen bee", "Tuesday", "zero", "snow", "a train", "glass",
]  # fmt: skip
PROMPTS = [
    *[f"Tell me one thing about {subject}." for subject in SUBJECTS],
    *[f"Write a haiku about {subject} with an emoji in every line." for subject in SUBJECTS[:6]],
    *[f"Write Python code about {subject}, with tabs and\nnew lines." for subject in SUBJECTS[6:10]],
    "Repeat exactly: 😀 😃 😄 😁 😆 😅 😂 🤣 😊 😇",
    "Repeat exactly: 👩‍👩‍👧‍👦 🏳️‍🌈 🇳🇱 👍🏽",
    "Repeat exactly: 你好，世界。今天天气很好。",
    "Repeat exactly: こんにちは、世界。日本語のテキストです。",
    "Repeat exactly: 안녕하세요 세계",
    "Repeat exactly: Привет, мир!",
    "Repeat exactly: مرحبا بالعالم",
    "Repeat exactly: שלום עולם",
    "Repeat exactly: Καλημέρα κόσμε",
    "Repeat exactly: नमस्ते दुनिया",
    "Repeat exactly: สวัสดีชาวโลก",
    "Repeat exactly: Zażółć gęślą jaźń",
    "Repeat exactly: Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Repeat exactly: L'élève naïf mange des œufs à Noël — ça va?",
    "Repeat exactly: Größe, Straße, Übermut",
    "Repeat exactly: ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ≤ ∞",
    "Repeat exactly: 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "Repeat exactly: e\u0301 a\u0308 n\u0303",
    "Repeat exactly: ½ ¾ € £ ¥ © ® ™",
    "Repeat exactly: \u200b\u200d\ufeff",
]
# Texts that the model is made to write, so that characters of two to four bytes do come, joined ones among them.
FORCED = ["😀👩‍👩‍👧‍👦🏳️‍🌈🇳🇱👍🏽", "你好，世界。", "한국어와 日本語", "Zażółć gęślą jaźń", "नमस्ते दुनिया", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ∞ e\u0301"]
REPLACEMENT = "\ufffd"


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def both(url, content, **options):
    """The whole answer, the pieces of the streamed one with its usage, and the tokenizer's count of the prompt."""
    options = {"temperature": 0, "max_tokens": 32} | options
    request = options | {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    with make_client(url) as client:
        whole = client.chat.completions.create(**request, logprobs=True)
        stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        *chunks, last = list(stream)
        tokens = client.post("/tokenize", body={"model": MODEL, "messages": request["messages"]}, cast_to=object)
    return whole, chunks, last.usage, tokens["count"]


def check_same(whole, chunks, usage, prompt_tokens):
    [choice] = whole.choices
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == choice.message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert reasons == [choice.finish_reason]
    assert usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(exclude={"prompt_tokens_details"})
    assert usage.prompt_tokens == prompt_tokens
    assert usage.completion_tokens == len(choice.logprobs.content)
    # A piece is whole characters: one that is cut would show as this one. Only the token limit may cut the last.
    text = choice.message.content
    assert REPLACEMENT not in (text.removesuffix(REPLACEMENT) if choice.finish_reason == "length" else text)


def test_fifty_prompts(url, pool):
    assert len(set(PROMPTS)) == 50
    answers = list(pool.map(lambda prompt: both(url, prompt), PROMPTS))
    for answer in answers:
        check_same(*answer)
    texts = [whole.choices[0].message.content for whole, *_ in answers]
    assert len(set(texts)) > 40
    # Some of it did go beyond ASCII, or the prompts are badly chosen.
    assert sum(not text.isascii() for text in texts) >= 10


@pytest.mark.parametrize("text", FORCED)
def test_characters_of_many_bytes(url, text):
    """Each is several tokens, and no token's part of it is sent."""
    whole, *rest = both(url, "Write.", response_format={"type": "regex", "pattern": text}, max_tokens=200)
    check_same(whole, *rest)
    assert whole.choices[0].message.content == text
    assert whole.usage.completion_tokens > len(text), "no character was split, so nothing was tested"
