"""Leases of a service registry: for runs on several machines: extra `registry`."""

import hashlib
from typing import Final, final

from maestro_orchestration_core._touches import overlap
from maestro_orchestration_core.errors import LeaseError

try:
    from maestro_service_registry import (
        ClaimRefused,
        LockNotAcquired,
        ServiceRegistry,
    )
except ImportError as error:
    raise ImportError(
        'registry leases need pip install "maestro-orchestration-core[registry]"'
    ) from error

_REASON: Final = "maestro lease on "
_LOCK: Final = "maestro-leases"


@final
class RegistryLeases:
    """A lease store in a ServiceRegistry, for `Orchestrator(leases=...)`.

    Each lease is a claim on a made-up service, so `claims.active()` shows it with
    its pattern as the reason. Freeze windows that cover services `lease-*` refuse
    new leases. A lock orders those who take; it is held for milliseconds.

    Args:
        registry: Open for as long as the store is used.
        timeout: Seconds to wait for the lock before a lease is refused.
    """

    def __init__(self, registry: ServiceRegistry, *, timeout: float = 10.0) -> None:
        self._registry = registry
        self._timeout = timeout

    def take(self, name: str, holder: str, *, ttl: float, shared: bool = False) -> int:
        """Return a fencing token; raise LeaseError naming the holder."""
        claims = self._registry.claims
        try:
            with self._registry.lock(_LOCK, timeout=self._timeout):
                self._check(name, holder, shared=shared)
                self.release(name, holder)
                claim = claims.take(
                    [_service(name)], by=holder, reason=_REASON + name,
                    until=self._registry.store.now() + max(ttl, 1.0),
                    mode="shared" if shared else "exclusive",
                )  # fmt: skip
                if ttl <= 0:  # over at once: no claim can end in the past
                    claim.release()
                elif ttl < 1.0:
                    claims.extend(claim.id, self._registry.store.now() + ttl)
        except LockNotAcquired as error:
            raise LeaseError(name, f"the registry's lock: {error}") from error
        except ClaimRefused as error:
            raise LeaseError(name, str(error)) from error
        return claim.fence

    def release(self, name: str, holder: str) -> None:
        """Let go; nothing happens when it was not held."""
        for claim in self._registry.claims.active():
            if claim.by == holder and claim.services == (_service(name),):
                claim.release()

    def _check(self, name: str, holder: str, *, shared: bool) -> None:
        for claim in self._registry.claims.active():
            pattern = claim.reason.removeprefix(_REASON)
            if pattern == claim.reason or claim.by == holder:
                continue
            if not (shared and claim.mode == "shared") and overlap(pattern, name):
                raise LeaseError(name, f"{claim.by} ({pattern})")


def _service(name: str) -> str:
    return f"lease-{hashlib.sha256(name.encode()).hexdigest()[:40]}"
