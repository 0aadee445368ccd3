"""Clients that leave before their answer is whole: whatever way they go, their slot is free again."""

import asyncio
import time

import openai
import pytest

from conftest import MODEL, eventually, eventually_all_free, slots

LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "max_tokens": 1800,
    "extra_body": {"ignore_eos": True},
}


def test_a_stream_that_is_closed(client, url):
    stream = client.chat.completions.create(**LONG, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert slots(url).free == slots(url).all - 1
    stream.close()
    eventually_all_free(url)


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_own_timeout(client, url, stream):
    started = time.monotonic()
    # The SDK tells the server how long it waits: if the server gives up first, by a hair, it says so.
    with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        # Nothing comes while a whole answer is computed; a stream has its tokens, but this client wants each within 0.1 ms.
        answer = client.chat.completions.create(**LONG, stream=stream, timeout=0.0001 if stream else 1)
        for _ in answer:
            pass
    assert time.monotonic() - started < 10
    eventually_all_free(url)


async def test_tasks_that_are_cancelled(async_client, url):
    whole = [asyncio.create_task(async_client.chat.completions.create(**LONG)) for _ in range(4)]
    taken = lambda: slots(url).all - slots(url).free  # noqa: E731
    await asyncio.to_thread(eventually, lambda: taken() == 4, "four requests take four slots")
    for task in whole:
        task.cancel()
    outcomes = await asyncio.gather(*whole, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await asyncio.to_thread(eventually_all_free, url)


async def test_a_stream_that_is_left_in_the_middle(async_client, url):
    async def read():
        async for _ in await async_client.chat.completions.create(**LONG, stream=True):
            reading.set()

    reading = asyncio.Event()
    task = asyncio.create_task(read())
    await asyncio.wait_for(reading.wait(), timeout=30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(eventually_all_free, url)
