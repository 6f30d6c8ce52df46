"""Share breakers over Redis; needs `pip install "maestro-resilience[redis]"`.

>>> from maestro_resilience.redis import RedisBreakerStore  # doctest: +SKIP
>>> store = RedisBreakerStore("redis://localhost:6379")  # doctest: +SKIP
>>> billing = CircuitBreaker("billing", store=store)  # doctest: +SKIP

One hash per breaker and one sorted set for its leases, whose scores are the times
(of the server's clock) when they end: a prober that dies frees its slot. Every
change is one Lua script, so no two clients can change the same version.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from maestro_resilience import _checks
from maestro_resilience.store import SharedView

try:
    import redis
except ImportError as error:
    raise ImportError(
        "maestro_resilience.redis needs redis-py: "
        'pip install "maestro-resilience[redis]"'
    ) from error

__all__ = ["RedisBreakerStore"]

# KEYS: the hash, the leases. ARGV: action, keep_ms, then the action's own.
# Times are milliseconds of the server; numbers come back as integers.
_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local got = redis.call('HMGET', KEYS[1], 'version', 'state', 'until', 'reason', 'good')
local version, state = tonumber(got[1] or '0'), got[2] or 'closed'
local till, reason, good = tonumber(got[3] or '0'), got[4] or '', tonumber(got[5] or '0')
local granted = 0
local function set(new, open_ms, why)
  version, state, till, reason, good = version + 1, new, now + open_ms, why, 0
  redis.call('HSET', KEYS[1], 'version', version, 'state', state, 'until', till,
             'reason', reason, 'good', 0)
  redis.call('DEL', KEYS[2])
end
local action = ARGV[1]
if action == 'change' then
  local known = tonumber(ARGV[3]) or version
  if known >= version then
    version = known
    set(ARGV[4], tonumber(ARGV[5]), ARGV[6])
  end
elseif action == 'lease' then
  if state == 'open' and now >= till then set('half_open', 0, 'open time is over') end
  if state == 'half_open' then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    if redis.call('ZCARD', KEYS[2]) + good < tonumber(ARGV[4]) then
      redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), ARGV[3])
      granted = 1
    end
  end
elseif action == 'report' then
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[3])
  redis.call('ZREM', KEYS[2], ARGV[3])
  if ends and tonumber(ends) > now then
    if ARGV[4] == 'failed' then
      set('open', tonumber(ARGV[6]), 'a probe failed')
    elseif ARGV[4] == 'ok' then
      good = good + 1
      redis.call('HSET', KEYS[1], 'good', good)
      if good >= tonumber(ARGV[5]) then set('closed', 0, good .. ' probes succeeded') end
    end
  end
end
if action ~= 'load' then
  local keep = math.max(tonumber(ARGV[2]), till - now + tonumber(ARGV[2]))
  if state == 'isolated' then
    redis.call('PERSIST', KEYS[1])
  else
    redis.call('PEXPIRE', KEYS[1], keep)
  end
  redis.call('PEXPIRE', KEYS[2], keep)
end
local left = 0
if state == 'open' then left = math.max(0, till - now) end
return {granted, version, state, left, reason}
"""
_DAY_MS = 86_400_000


class RedisBreakerStore:
    """Breaker state in Redis, for several processes and hosts.

    Args:
        url: such as "redis://localhost:6379/0".
        client: a redis.Redis of your own instead of a URL.
        prefix: of the keys.
        timeout: seconds that one exchange with Redis may take.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "maestro:breaker:",
        timeout: float = 0.25,
    ) -> None:
        if (url is None) == (client is None):
            raise TypeError("RedisBreakerStore takes a url or a client, one of them")
        seconds = _checks.number("RedisBreakerStore", "timeout", timeout, above=0)
        self._redis: Any = client or redis.Redis.from_url(
            url or "", socket_timeout=seconds, socket_connect_timeout=seconds
        )
        self._url = url
        self._timeout = seconds
        self._prefix = prefix
        self._script: Any = self._redis.register_script(_SCRIPT)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._url is None:
            raise TypeError("a RedisBreakerStore with a client of yours has no copy")
        again = partial(
            RedisBreakerStore, self._url, prefix=self._prefix, timeout=self._timeout
        )
        return (again, ())

    def _run(self, name: str, action: str, *args: object) -> tuple[bool, SharedView]:
        # The braces keep both keys on one node of a cluster.
        key = f"{self._prefix}{{{name}}}"
        granted, version, state, left, reason = self._script(
            keys=[key, f"{key}:leases"], args=[action, _DAY_MS, *args]
        )
        view = SharedView(
            version=int(version),
            state=_text(state),
            left=int(left) / 1000,
            reason=_text(reason),
        )
        return bool(granted), view

    def load(self, name: str) -> SharedView:
        """Return the present view."""
        return self._run(name, "load")[1]

    def change(
        self, name: str, version: int | None, state: str, open_for: float, reason: str
    ) -> SharedView:
        """Set the state unless the version is newer (None: in any case)."""
        expected = "" if version is None else version
        return self._run(name, "change", expected, state, _ms(open_for), reason)[1]

    def lease(
        self, name: str, probe: str, probes: int, lease_for: float
    ) -> tuple[bool, SharedView]:
        """Take a probe's slot if the open time is over and one is free."""
        return self._run(name, "lease", probe, probes, _ms(lease_for))

    def report(
        self, name: str, probe: str, outcome: str, probes: int, open_for: float
    ) -> SharedView:
        """Give a slot back and count its outcome."""
        return self._run(name, "report", probe, outcome, probes, _ms(open_for))[1]

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000)) if seconds else 0


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
