"""Checked by mypy only: what users write has the types they expect."""

from maestro_service_registry import Instance, Registration, Service, ServiceRegistry


def use(registry: ServiceRegistry) -> None:
    """Use the main verbs."""
    handle: Registration = registry.register("billing", port=1)
    service: Service = registry.service("billing", policy="ewma")
    instance: Instance = service.pick()
    with registry.lock("x") as lock:
        fence: int = lock.guard()
    print(handle, instance, fence)
