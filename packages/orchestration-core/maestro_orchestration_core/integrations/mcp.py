"""Tools of a Model Context Protocol server: extra `mcp`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from maestro_orchestration_core._agent import Effect, Tool
from maestro_orchestration_core._messages import Reply
from maestro_orchestration_core.errors import OrchestrationError

try:
    from mcp import ClientSession, StdioServerParameters, stdio_client
except ImportError as error:
    raise ImportError(
        'MCP tools need pip install "maestro-orchestration-core[mcp]"'
    ) from error


@asynccontextmanager
async def mcp_tools(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    effect: Effect = "unsafe",
) -> AsyncIterator[list[Tool]]:
    """Start a server on stdin and stdout, give its tools, end it afterwards.

    Args:
        command: Program and arguments; no shell reads them.
        env: Variables of the server.
        effect: Of all its tools. A server says nothing that one could rely on, so
            a call that was cut off waits for a person unless told otherwise.
    """
    server = StdioServerParameters(
        command=command[0], args=list(command[1:]), env=dict(env) if env else None
    )
    async with (
        stdio_client(server) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        yield [
            Tool(
                _caller(session, tool.name), effect=effect, name=tool.name,
                description=tool.description or "", parameters=tool.input_schema,
            )
            for tool in listed.tools
        ]  # fmt: skip


def _caller(session: ClientSession, name: str) -> Callable[..., Awaitable[Reply]]:
    async def call(**arguments: Any) -> Reply:
        result: Any = await session.call_tool(name, arguments)
        text = "\n".join(getattr(part, "text", "") for part in result.content)
        if result.is_error:
            raise OrchestrationError(text or f"tool {name!r} failed")
        return Reply(text, result.structured_content)

    return call
