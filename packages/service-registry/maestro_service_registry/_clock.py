"""Time and processes of this host.

Leases count on CLOCK_BOOTTIME, which no administrator sets and which goes on while
the machine sleeps; calendars use UTC. A process is named by pid, start time, boot id
and pid namespace, so that a reused pid or a pid of another container is never taken
for it. When this host cannot tell whether a process lives, the answer is None and
only its lease counts.
"""

import os
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, final

__all__ = ["Clock", "Process", "SystemClock", "boot_id"]


class Clock(Protocol):
    """Where the package reads time; replace it in tests with `testing.FakeClock`."""

    def elapsed(self) -> float:
        """Return seconds that only go forward, on this host."""
        ...

    def utc(self) -> float:
        """Return seconds since 1970 in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@final
class SystemClock:
    """The clocks of the operating system."""

    def elapsed(self) -> float:
        """Return CLOCK_BOOTTIME where there is one, else the monotonic clock."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    def utc(self) -> float:
        """Return the wall clock; used for calendars, never for leases."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait with time.sleep."""
        time.sleep(seconds)


def boot_id() -> str:
    """Return what changes with each start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux: the host name is better than nothing
        return f"host-{socket.gethostname()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, told apart from every other that ever had the same pid."""

    pid: int
    started: str
    boot: str
    namespace: str
    host: str

    @classmethod
    def current(cls) -> "Process":
        """Describe the calling process."""
        pid = os.getpid()
        started, namespace = _of_this_process(pid)
        return cls(
            pid=pid,
            started=started,
            boot=_boot(),
            namespace=namespace,
            host=socket.gethostname(),
        )

    @classmethod
    def of(cls, raw: Any) -> "Process | None":
        """Read what `to_dict` wrote; None for anything else."""
        try:
            return _known(**raw)
        except TypeError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def visible(self) -> bool:
        """Tell whether this host and pid namespace can see the process."""
        return bool(self.started) and (
            self.boot == _boot() and self.namespace == _namespace()
        )

    def alive(self) -> bool | None:
        """Tell whether it lives; None when that cannot be seen from here."""
        if not self.visible():
            return None
        return _start_time(self.pid) == self.started


_known = lru_cache(maxsize=1024)(Process)


@lru_cache(maxsize=1)
def _boot() -> str:
    return boot_id()


@lru_cache(maxsize=1)
def _of_this_process(pid: int) -> tuple[str, str]:
    return _start_time(pid) or "", _namespace()


os.register_at_fork(after_in_child=_of_this_process.cache_clear)


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):  # a zombie holds nothing
        return None
    return fields[19].decode("ascii")
