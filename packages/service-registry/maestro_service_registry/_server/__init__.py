"""The HTTP server (extra `[server]`): Consul's API in part, our own, a dashboard."""

try:
    import starlette
    import uvicorn
except ImportError as error:
    raise ImportError(
        "the server needs Starlette and uvicorn: "
        'pip install "maestro-service-registry[server]"'
    ) from error

__all__ = ["starlette", "uvicorn"]
