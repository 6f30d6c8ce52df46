"""What several test files use."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from maestro_orchestration_core import Agent, Persona


async def echo(turn):
    """Answer with the prompt."""
    return f"{turn.task}: {turn.prompt}"


def agent(name="worker", body=echo, **options) -> Agent:
    """Return an agent whose persona has nothing but a name."""
    return Agent(Persona(name=name), body, **options)


@pytest.fixture
def git(require_program: Callable[[str], str]) -> Callable[..., str]:
    """Return a function that runs git."""
    require_program("git")

    def run(folder: Path, *args: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        done = subprocess.run(
            ["git", *identity, *args],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout.strip()

    return run


@pytest.fixture
def repository(tmp_path: Path, git: Callable[..., str]) -> Path:
    """Return a repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "numbers.py").write_text("ONE = 1\n\n\n\n\nTWO = 2\n", encoding="utf-8")
    (folder / "README").write_text("hello\n", encoding="utf-8")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder
