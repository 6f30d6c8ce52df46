"""Tasks planned, run, resumed and added; turns asked; run by `make bench`."""

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


def tasks(count, touching=False):
    """Lanes that lean on each other; touching: all of a lane change one folder."""
    return [
        Task(
            f"t{n}", needs={"w"},
            after=[f"t{n - WIDTH}", f"t{n - WIDTH + 1}"] if n >= WIDTH else [],
            touches=[f"lane{n % WIDTH}/**", f"src/{n}.py"] if touching else [],
        )
        for n in range(count)
    ]  # fmt: skip


def plan(count, _):
    made = tasks(count)
    return lambda: Plan(made).explain()


def plan_touching(count, _):
    made = tasks(count, touching=True)
    return lambda: Plan(made).explain()


def run_crowded(count, folder):
    """All are ready at once and half of them want the same file."""
    made = Plan(
        Task(f"t{n}", needs={"w"}, touches=["log.md"] if n % 2 else [f"{n}.py"])
        for n in range(count)
    )

    def call():
        maestro = Orchestrator([worker()], journal=folder / "runs.db")
        assert asyncio.run(maestro.run(made, run_id="r")).ok

    return call


def resume(count, folder):
    """Open a run of which all but the last task is done."""
    made = Plan([*tasks(count), Task("last", needs={"w"}, approval="before")])

    def call():
        maestro = Orchestrator([worker()], journal=folder / "runs.db")
        return asyncio.run(maestro.run(made, run_id="r"))

    assert call().tasks["last"].state == "waiting"
    return call


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
    "tasks that touch files planned": ((300, 1_000, 3_000), plan_touching),
    "tasks run with a journal": ((200, 600, 2_000), run),
    "tasks run that want the same file": ((200, 600, 2_000), run_crowded),
    "run resumed": ((200, 600, 2_000), resume),
    "turns in memory": ((500, 2_000, 8_000), turns_in_memory),
    "turns with a journal": ((300, 1_200, 5_000), turns),
}
