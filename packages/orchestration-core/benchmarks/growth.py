"""Tasks planned and run, turns journalled and resumed; run by `make bench`."""

import asyncio

from maestro_orchestration_core import (
    Agent,
    Orchestrator,
    Persona,
    Plan,
    Task,
    conversation,
)

WIDTH = 20


def worker():
    return Agent(Persona(name="worker", capabilities={"w": 1}), lambda turn: "done")


def tasks(count):
    return [
        Task(
            f"t{n}", needs={"w"},
            after=[f"t{n - WIDTH}", f"t{n - WIDTH + 1}"] if n >= WIDTH else [],
        )
        for n in range(count)
    ]  # fmt: skip


def plan(count, _):
    made = tasks(count)
    return lambda: Plan(made).explain()


def run(count, folder):
    made = Plan(tasks(count))

    def call():
        maestro = Orchestrator([worker()], journal=folder / "runs.db")
        assert asyncio.run(maestro.run(made, run_id="r")).ok

    return call


def turns(count, folder, journal=True):
    agent = worker()

    async def talk():
        async with conversation(journal=folder / "runs.db" if journal else None) as c:
            for number in range(count):
                await c.ask(agent, f"go {number}")

    return lambda: asyncio.run(talk())


def turns_in_memory(count, folder):
    return turns(count, folder, journal=False)


CASES = {
    "tasks planned and explained": ((300, 1_000, 3_000), plan),
    "tasks run with a journal": ((300, 1_000, 3_000), run),
    "turns in memory": ((500, 2_000, 8_000), turns_in_memory),
    "turns with a journal": ((500, 2_000, 8_000), turns),
}
