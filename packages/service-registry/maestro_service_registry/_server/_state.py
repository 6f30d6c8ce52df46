"""Everything at a glance, for the dashboard and for metrics."""

import json
from collections import Counter
from typing import Any

from maestro_service_registry._registry import ServiceRegistry
from maestro_service_registry._store import split_key
from maestro_service_registry.errors import CycleError

__all__ = ["metrics", "state"]


def state(registry: ServiceRegistry) -> dict[str, Any]:
    """Return services, leases, locks, claims, windows, announcements and the graph."""
    services = registry.services()
    now = registry.store.now()
    graph = registry.graph()
    cycle: list[str] = []
    layers: list[list[str]] = []
    try:
        layers = graph.order()
    except CycleError as error:
        cycle = list(error.path)
    return {
        "now": now,
        "services": {
            name: [i.to_dict() | {"revision": i.revision} for i in group]
            for name, group in services.items()
        },
        "leases": [
            {
                "id": lease.id,
                "ttl": lease.ttl,
                "left": round(lease.left, 1),
                "strict": lease.strict,
                "pid": lease.owner.pid if lease.owner else None,
            }
            for lease in registry.store.leases()
        ],
        "locks": _locks(registry),
        "claims": [str(claim) for claim in registry.claims.active()],
        "windows": [
            {"text": str(w), "active": w.active(now)} for w in registry.windows.all()
        ],
        "announcements": [
            {
                "service": a.service,
                "version": a.version,
                "change": a.change,
                "breaking": a.breaking,
                "effective": a.effective,
                "state": a.state(now),
                "missing": list(a.missing),
            }
            for a in registry.contracts.all()
        ],
        "graph": {
            "layers": layers,
            "cycle": cycle,
            "edges": [
                [service, need, sorted(graph.edges[service][need])]
                for service in sorted(graph.edges)
                for need in graph.requires(service)
            ],
        },
    }


def metrics(registry: ServiceRegistry) -> str:
    """Return counts in Prometheus' text format."""
    lines = [
        "# HELP maestro_registry_instances Registered instances.",
        "# TYPE maestro_registry_instances gauge",
    ]
    counted = Counter(
        (i.service, i.status, i.health)
        for group in registry.services().values()
        for i in group
    )
    for (service, status, health), number in sorted(counted.items()):
        labels = f'service="{service}",status="{status}",health="{health}"'
        lines.append(f"maestro_registry_instances{{{labels}}} {number}")
    for name, help_text, number in (
        (
            "leases",
            "Leases of instances, locks and sessions.",
            len(registry.store.leases()),
        ),
        ("revision", "The store's revision.", registry.store.read("g/").revision),
        ("claims", "Claims that hold now.", len(registry.claims.active())),
    ):
        lines.append(f"# HELP maestro_registry_{name} {help_text}")
        lines.append(f"# TYPE maestro_registry_{name} gauge")
        lines.append(f"maestro_registry_{name} {number}")
    return "\n".join(lines) + "\n"


def _locks(registry: ServiceRegistry) -> list[dict[str, Any]]:
    queues: dict[str, list[Any]] = {}
    for record in registry.store.read("l/").records:
        queues.setdefault(split_key(record.key)[1], []).append(record)
    found = []
    for name, tickets in sorted(queues.items()):
        first = min(tickets, key=lambda record: record.created)
        holder = json.loads(first.value)["holder"]
        waiting = len(tickets) - 1
        found.append(
            {"name": name, "holder": holder, "fence": first.created, "waiting": waiting}
        )
    return found
