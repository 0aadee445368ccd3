"""An answer does not depend on who else asks: alone or among fifteen others, computed anew or found in the cache."""

from concurrent.futures import ThreadPoolExecutor

from conftest import MODEL, make_client

# Of different lengths, so that prompts end and answers begin in different steps; some greedy, some drawn.
REQUESTS = [
    {
        "messages": [{"role": "user", "content": f"Tell me about the number {number}. " + "Be brief. " * (number * 3)}],
        "temperature": (number % 2) * 0.9,
        "seed": number,
        "max_tokens": 8 + 2 * number,
    }
    for number in range(16)
]


def answer(client, request):
    completion = client.chat.completions.create(model=MODEL, **request)
    [choice] = completion.choices
    return choice.message.content, choice.finish_reason, completion.usage.completion_tokens


def test_sixteen_together_answer_as_each_alone(url):
    with make_client(url) as client:
        together = ask_together(url)
        alone = [answer(client, request) for request in REQUESTS]
    assert together == alone
    assert len({text for text, _, _ in alone}) > 8
    # Their prompts are in the cache by now.
    assert ask_together(url) == alone


def ask_together(url):
    def ask(request):
        with make_client(url) as client:
            return answer(client, request)

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        return list(pool.map(ask, REQUESTS))


def test_sixty_four_clients_at_once(url):
    """Eight are served and the others wait; each gets the answer that it gets alone."""
    request = REQUESTS[1] | {"temperature": 0}

    def ask(_):
        with make_client(url) as client:
            return answer(client, request)

    alone = ask(0)
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [alone] * 64
