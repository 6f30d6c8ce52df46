"""The gRPC health check (extra `[grpc]`): grpc.health.v1.Health/Check."""

from ._checks import Verdict

try:
    import grpc
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc
except ImportError as error:
    raise ImportError(
        'gRPC checks need grpcio: pip install "maestro-service-registry[grpc]"'
    ) from error

__all__ = ["ask"]


async def ask(service: str, host: str, port: int, timeout: float) -> Verdict:
    """Ask once over a new channel without TLS."""
    name = f"[{host}]" if ":" in host else host
    async with grpc.aio.insecure_channel(f"{name}:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await stub.Check(request, timeout=timeout)
        except grpc.RpcError as error:
            return Verdict("critical", f"{error.code().name}: {error.details()}")
    serving = health_pb2.HealthCheckResponse.SERVING
    word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Verdict("passing" if answer.status == serving else "critical", word)
