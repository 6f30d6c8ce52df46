"""A real model server (llama.cpp with random weights) answers our client."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from maestro_orchestration_core import (
    Agent,
    Budget,
    Orchestrator,
    Persona,
    Plan,
    Request,
    Task,
    Window,
    errors,
    openai_compatible,
)

PINNED = ["xllamacpp==2026.10.11549", "gguf==0.19.0"]
SERVE = Path(__file__).with_name("live_server.py")
HELLO = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Return the address of a real server, in its own environment."""
    folder = tmp_path_factory.mktemp("live")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("needs uv to make an environment for xllamacpp: pip install uv")
    for command in (
        [uv, "venv", "-q", "--python", sys.executable, str(folder / "env")],
        [uv, "pip", "install", "-q", "-p", str(folder / "env/bin/python"), *PINNED],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              encoding="utf-8", timeout=200)  # fmt: skip
        if done.returncode:
            pytest.skip(f"cannot install {PINNED}: {done.stderr.strip()[-300:]}")
    with subprocess.Popen(
        [folder / "env/bin/python", str(SERVE), str(folder / "tiny.gguf")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            line = b""
            for _ in range(2000):  # the server's own lines may come first
                line = server.stdout.readline()
                if not line or line.startswith(b"READY "):
                    break
            assert line.startswith(b"READY "), "the server did not start"
            yield line.split()[1].decode() + "/v1"
        finally:
            server.kill()


def ask(live, messages=HELLO, *, on_delta=None, **options):
    with openai_compatible(live, model="tiny", on_delta=on_delta, timeout=60) as model:
        request = Request(messages=messages, **options)
        return asyncio.run(model.complete(request))


@pytest.mark.drill
def test_usage_is_counted_and_zero_temperature_repeats(live):
    """Token counts come from the server; the same seed says the same."""
    first = ask(live, temperature=0.0, max_output=12, seed=1)
    again = ask(live, temperature=0.0, max_output=12, seed=1)
    assert first.text == again.text
    assert first.usage.output_tokens == 12
    assert first.usage.input_tokens > 3
    assert first.finish == "length"


@pytest.mark.drill
def test_a_stream_says_the_same_as_a_whole_answer(live):
    """Pieces arrive one by one; text and usage are those of the plain call."""
    pieces = []
    whole = ask(live, temperature=0.0, max_output=16, seed=1)
    streamed = ask(live, temperature=0.0, max_output=16, seed=1, on_delta=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == streamed.text == whole.text
    assert streamed.usage.tokens == whole.usage.tokens


@pytest.mark.drill
def test_structured_output_in_a_run(live):
    """Random weights, forced into the schema; budget and report count real tokens."""
    schema = {
        "type": "object", "required": ["ok", "kind"], "additionalProperties": False,
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["red", "blue"]}},
    }  # fmt: skip
    with openai_compatible(live, model="tiny", timeout=60) as model:
        persona = Persona(name="p", model={"temperature": 0, "max_output": 128})
        maestro = Orchestrator(
            [Agent(persona, model)], budget=Budget(tokens=10_000, mode="hard")
        )
        plan = Plan([Task(f"t{n}", "Choose.", output=schema) for n in range(4)])
        report = asyncio.run(maestro.run(plan))
    assert report.ok, report.why()
    for task in report.tasks.values():
        assert task.reply.data["kind"] in {"red", "blue"}
        assert json.loads(task.reply.text) == task.reply.data
    assert 0 < report.usage.input_tokens < 10_000


@pytest.mark.drill
def test_context_overflow_is_its_own_error(live):
    """The real server's refusal is recognised; a window prevents it."""
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(errors.ContextOverflowError) as caught:
        ask(live, long, max_output=8)
    assert caught.value.status == 400
    assert not caught.value.retry
    history = [{"role": "user", "content": "w " * 100} for _ in range(40)]
    fitted = Window(limit=150, reserve_output=32).fit([*history, *HELLO])
    assert ask(live, fitted, max_output=8).usage.output_tokens == 8


@pytest.mark.drill
def test_cancelling_frees_the_real_server(live):
    """After a cancelled stream the next call is answered at once."""

    async def main():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        with openai_compatible(
            live, model="tiny", timeout=60,
            on_delta=lambda text: loop.call_soon_threadsafe(started.set),
        ) as model:  # fmt: skip
            request = Request(messages=HELLO, extra={"ignore_eos": True})
            call = asyncio.create_task(model.complete(request))
            await asyncio.wait_for(started.wait(), 60)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            short = Request(messages=HELLO, max_output=3)
            return await asyncio.wait_for(model.complete(short), 60)

    assert asyncio.run(main()).usage.output_tokens <= 3


@pytest.mark.drill
def test_the_server_lists_its_model(live):
    """What `doctor` asks."""
    with openai_compatible(live, model="tiny") as model:
        assert model.health()["data"]
