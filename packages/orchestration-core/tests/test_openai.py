"""The client against a real HTTP server on loopback that misbehaves on purpose."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from maestro_orchestration_core import (
    Agent,
    Budget,
    OpenAICompatible,
    Orchestrator,
    Persona,
    Plan,
    Request,
    Retry,
    Task,
    Throttle,
    Tool,
    errors,
    openai_compatible,
)

from .fake_endpoint import completion, delta, endpoint, sse

HELLO = Request(messages=[{"role": "user", "content": "hello"}])


@pytest.fixture
def server():
    """Return an endpoint with an empty script."""
    with endpoint() as found:
        yield found


def ask(server, request=HELLO, **options):
    with openai_compatible(server.url, model="m", **options) as model:
        return asyncio.run(model.complete(request))


def test_a_call_carries_what_was_asked_and_counts_what_was_used(server, monkeypatch):
    """Settings, schema, tools and key go out; text and usage come back."""
    monkeypatch.setenv("LLM_KEY", "s3cret")
    server.say(completion("hi"))
    schema = {"type": "object"}
    request = Request(
        messages=HELLO.messages, schema=schema, temperature=0.0, max_output=9, seed=4,
        tools=[Tool(len, name="size", parameters=schema).spec()], extra={"top_p": 0.5},
    )  # fmt: skip
    reply = ask(server, request, key_env="LLM_KEY")
    assert (reply.text, reply.usage.input_tokens, reply.usage.output_tokens) == (
        "hi", 7, 3,
    )  # fmt: skip
    seen = server.seen[0]
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["Authorization"] == "Bearer s3cret"
    assert seen.body["temperature"] == 0.0
    assert (seen.body["max_tokens"], seen.body["seed"], seen.body["top_p"]) == (
        9, 4, 0.5,
    )  # fmt: skip
    assert seen.body["response_format"]["json_schema"]["schema"] == schema
    assert seen.body["tools"][0]["function"]["name"] == "size"
    assert "stream" not in seen.body


def test_a_missing_key_is_said_before_anything_is_sent(server, monkeypatch):
    """The variable is named; its value never appears in a repr."""
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(errors.SettingsError, match="NO_KEY"):
        ask(server, key_env="NO_KEY")
    assert not server.seen


@pytest.mark.parametrize("url", ["localhost:1", "ftp://x/", "http:///v1", ""])
def test_what_is_no_url_is_refused(url):
    """Only http and https with a host."""
    with pytest.raises(errors.SettingsError, match="URL"):
        OpenAICompatible(url, model="m")


def test_a_stream_is_put_together_from_small_pieces(server):
    """Text, usage and tool calls that come in parts, cut anywhere."""
    call = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": " 2}"}}
    other = {"index": 1, "id": "c2", "function": {"name": "now", "arguments": ""}}
    server.chunked(
        sse(
            delta("Grü"), delta("ße"), {"choices": [{"delta": None}]},
            {"choices": [{"delta": {"tool_calls": [call]}}]},
            {"choices": [{"delta": {"tool_calls": [rest, other]}}]},
            {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        )
    )  # fmt: skip
    pieces = []
    reply = ask(server, on_delta=pieces.append)
    assert pieces == ["Grü", "ße"]
    assert reply.text == "Grüße"
    assert [(c.id, c.name, dict(c.arguments)) for c in reply.tool_calls] == [
        ("c1", "add", {"a": 2}),
        ("c2", "now", {}),
    ]
    assert (reply.finish, reply.usage.tokens) == ("tool_calls", 7)
    assert server.seen[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "body",
    [
        sse(delta("half"), done=False),
        sse(delta("a"), {"error": {"message": "out of memory"}}),
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b"data: 5\n\n",
        b"",
    ],
)
def test_a_broken_stream_is_an_error_worth_a_retry(server, body):
    """Half an answer is never taken for a whole one."""
    server.cut(body)
    with pytest.raises(errors.ModelError) as caught:
        ask(server, on_delta=lambda text: None)
    assert caught.value.retry


@pytest.mark.parametrize(
    ("body", "announced"),
    [(b'{"choices": [', 0), (b"<html>", 0), (completion("hello"), 10_000), (b"", 50)],
)
def test_a_cut_answer_is_an_error_worth_a_retry(server, body, announced):
    """A body shorter than announced, or that is no JSON, is not an answer."""
    server.cut(body, announced=announced)
    if announced and body:
        # The JSON is whole although bytes are missing: it may be taken.
        assert ask(server).text == "hello"
        return
    with pytest.raises(errors.ModelError) as caught:
        ask(server)
    assert caught.value.retry


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": None}]},
        {"choices": [{"message": {"tool_calls": [{"id": 1}]}}]}, {"choices": 5},
        {"choices": [{"message": "text"}]}, [],
    ],
)  # fmt: skip
def test_json_that_is_no_completion_is_named(server, answer):
    """Wrong shapes are ModelErrors, never AttributeErrors."""
    server.say(json.dumps(answer).encode())
    with pytest.raises(errors.ModelError):
        ask(server)


def test_odd_but_legal_answers_are_read(server):
    """Null content, content in parts, null counts, arguments that are no JSON."""
    server.say(b'{"choices": [{"message": {"content": null}}], "usage": null}')
    assert ask(server).usage is None
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    server.say(completion(parts, usage=None))
    assert ask(server).text == "ab"
    bad = [{"id": "1", "function": {"name": "f", "arguments": "{oops"}}]
    server.say(completion(tool_calls=bad))
    assert ask(server).tool_calls[0].arguments == {"$unreadable": "{oops"}


@pytest.mark.parametrize(
    ("status", "header", "low", "high"),
    [
        (429, "7", 7, 7),
        (429, "", None, None),
        (429, "soon", None, None),
        (429, "-3", None, None),
        (429, "nan", None, None),
        (429, "inf", None, None),
        (429, "999999999", 86_400, 86_400),
        (429, "DATE", 25, 31),
        (503, "2", 2, 2),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(
    server, status, header, low, high
):
    """Nonsense is no wait at all, and no header can freeze us for ever."""
    if header == "DATE":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    headers = {"Retry_After": header} if header else {}
    server.say(b'{"error": {"message": "slow down"}}', status, **headers)
    with pytest.raises(errors.RateLimitedError, match="slow down") as caught:
        ask(server)
    assert caught.value.status == status
    if low is None:
        assert caught.value.retry_after is None
    else:
        assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry"),
    [
        (400, b'{"error": {"message": "exceeds the context size"}}',
         errors.ContextOverflowError, False),
        (400, b'{"error": "bad"}', errors.ModelError, False),
        (401, b"no", errors.ModelError, False),
        (302, b"", errors.ModelError, False),
        (500, b"[1]", errors.ModelError, True),
        (503, b'{"error": {"message": null}}', errors.ModelError, True),
    ],
)  # fmt: skip
def test_each_refusal_says_whether_it_is_worth_a_retry(
    server, status, body, kind, retry
):
    """The status and the server's own words are in the error."""
    server.say(body, status)
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        ask(server)
    assert type(caught.value) is kind
    assert caught.value.retry is retry


def test_connections_are_kept_and_a_dead_one_is_replaced(server):
    """One connection serves many calls; when it died unseen, a new one is made."""
    server.say(completion("1"))
    server.say(completion("2"))
    server.drop()
    server.say(completion("3"))
    with openai_compatible(server.url, model="m") as model:
        answers = [asyncio.run(model.complete(HELLO)).text for _ in range(3)]
    assert answers == ["1", "2", "3"]
    ports = [seen.client[1] for seen in server.seen]
    assert ports[0] == ports[1] == ports[2] != ports[3]


def test_a_fresh_connection_that_drops_is_not_asked_twice(server):
    """Only a kept connection gets a second chance: the call may have had effect."""
    server.drop()
    with pytest.raises(errors.ModelError) as caught:
        ask(server)
    assert caught.value.retry
    assert len(server.seen) == 1


def test_nobody_there_says_where():
    """A refused connection names the address."""
    with endpoint() as gone:
        url = gone.url
    with (
        openai_compatible(url, model="m") as model,
        pytest.raises(errors.ModelError, match=r"127\.0\.0\.1") as caught,
    ):
        asyncio.run(model.complete(HELLO))
    assert caught.value.retry


@pytest.mark.parametrize("close", [False, True])
def test_cancelling_hangs_up(server, close):
    """The server sees it at once, with a connection that http.client forgot too."""
    server.drip(close=close)

    async def main(model):
        call = asyncio.create_task(model.complete(HELLO))
        assert await asyncio.to_thread(server.started.wait, 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(server.hung_up.wait, 20)

    with openai_compatible(server.url, model="m", on_delta=lambda t: None) as model:
        asyncio.run(main(model))


def test_closing_cuts_the_calls_under_way(server):
    """`close` does not wait for a server that streams without end."""
    server.drip(close=True)

    async def main(model):
        call = asyncio.create_task(model.complete(HELLO))
        assert await asyncio.to_thread(server.started.wait, 20)
        await asyncio.to_thread(model.close)
        with pytest.raises(errors.ModelError) as caught:
            await call
        assert caught.value.retry is False or caught.value.status == 200
        with pytest.raises(errors.ModelError, match="closed"):
            await model.complete(HELLO)

    started = time.monotonic()
    model = openai_compatible(server.url, model="m", on_delta=lambda t: None)
    asyncio.run(main(model))
    assert server.hung_up.wait(20)
    assert time.monotonic() - started < 15  # the stream alone lasts 20 s


def test_fifty_calls_at_once(server):
    """Threads and connections are shared; each call gets its own answer."""
    for _ in range(50):
        server.script.append(
            lambda handler: server_echo(handler, server),
        )

    async def main(model):
        requests = [
            Request(messages=[{"role": "user", "content": str(n)}]) for n in range(50)
        ]
        return await asyncio.gather(*map(model.complete, requests))

    with openai_compatible(server.url, model="m", threads=8) as model:
        replies = asyncio.run(main(model))
    assert [reply.text for reply in replies] == [str(n) for n in range(50)]
    assert len({seen.client[1] for seen in server.seen}) <= 8


def server_echo(handler, server):
    """Answer with the question of this very connection."""
    mine = [s for s in server.seen if s.client == handler.client_address][-1]
    body = completion(mine.body["messages"][0]["content"])
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_health_lists_the_models(server):
    """The model list is read with GET."""
    server.say(b'{"data": [{"id": "m"}]}')
    with openai_compatible(server.url, model="m") as model:
        assert model.health()["data"][0]["id"] == "m"
    assert server.seen[0].path == "/v1/models"


# In a run.


def run(server, persona=None, task=None, budget=None, **options):
    with openai_compatible(server.url, model="m") as model:
        tools = options.pop("tools", ())
        maestro = Orchestrator(
            [Agent(persona or Persona(name="a"), model, **options)],
            tools=tools, budget=budget,
        )  # fmt: skip
        return asyncio.run(maestro.run(Plan([task or Task("t", "hello")])))


def test_tools_go_round_over_the_wire(server):
    """The tool's result goes back with its id, arguments again as text."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = {"id": "c9", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    server.say(completion(tool_calls=[call], finish="tool_calls"))
    server.say(completion("5"))
    report = run(server, Persona(name="a", tools=("add",)), tools=[Tool(add)])
    assert report.tasks["t"].reply.text == "5"
    said, result = server.seen[1].body["messages"][-2:]
    assert said["tool_calls"][0]["function"]["arguments"] == '{"a": 2, "b": 3}'
    assert result == {"role": "tool", "tool_call_id": "c9", "content": "5"}


def test_a_429_is_waited_for_and_the_run_goes_on(server):
    """Throttle and Retry together, with a clock that does not wait."""
    now = [0.0]

    async def sleep(seconds):
        now[0] += seconds
        await asyncio.sleep(0)

    server.say(b"{}", 429, Retry_After="30")
    server.cut(b"")
    server.say(completion("fine"))
    throttle = Throttle(clock=lambda: now[0], sleep=sleep, rng=lambda: 0.0)
    retry = Retry(clock=lambda: now[0], sleep=sleep, rng=lambda: 1.0)
    report = run(server, throttle=throttle, retry=retry)
    assert report.tasks["t"].reply.text == "fine"
    assert now[0] >= 30
    assert len(server.seen) == 3


def test_a_server_that_does_not_count_is_never_free(server):
    """Without usage the estimate is charged, so a token budget still holds."""
    server.say(completion("word " * 50, usage=None))
    report = run(server, budget=Budget(tokens=5000, mode="hard"))
    assert report.ok
    assert report.usage.output_tokens >= 40
    assert report.usage.input_tokens > 0


def test_a_cut_answer_is_charged_and_a_refused_call_is_not(server):
    """Who answered half has worked; who refused has not."""
    budget = Budget(tokens=5000, mode="hard")
    server.cut(b'{"choices": [')
    cut = run(server, budget=budget)
    assert cut.tasks["t"].state == "failed"
    assert cut.usage.output_tokens == 1024  # the most it might have said
    server.say(b"{}", 500)
    refused = run(server, budget=budget)
    assert refused.tasks["t"].state == "failed"
    assert refused.usage.output_tokens == 0


def test_an_overflow_fails_the_task_with_the_servers_words(server):
    """A prompt that does not fit says so in the report."""
    server.say(b'{"error": {"message": "exceeds the context size (8)"}}', 400)
    report = run(server)
    assert "context size" in report.tasks["t"].detail
