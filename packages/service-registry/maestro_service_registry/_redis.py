"""A store in Redis (extra `[redis]`): for several hosts.

Every verb is one Lua script, so it is atomic, and the only clock is the server's. All
keys share one hash tag and fit a cluster slot. Redis answers before it has written to
disk: after a crash it may have forgotten the last commits, or all. So a revision is the
server's time in microseconds, or one more than the last where that is higher: even then
no fence is given out twice, as long as that clock is not set back. A reader whose last
revision is not in the log any more gets `Compacted`, even when others have written
since; holders lose their leases and register again. What ended after the snapshot that
was restored comes back until its lease runs out.
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import parse_qs, urlsplit, urlunsplit

from ._clock import Process
from ._store import (
    BATCH,
    KEPT_EVENTS,
    Batch,
    Delete,
    Event,
    Lease,
    Op,
    Record,
    Snapshot,
)
from .errors import Compacted, Conflict, InvalidInput, LeaseLost, StoreUnavailable

try:
    import redis
except ImportError as error:
    raise ImportError(
        'redis:// stores need redis-py: pip install "maestro-service-registry[redis]"'
    ) from error

__all__ = ["RedisStore"]

# KEYS: rev, rec (hash key->json), idx (zset of keys), ev (stream), lease (hash),
#       due (zset lease->ms), owned (hash key->lease)
_PRELUDE = """
local rev, rec, idx, ev, lease, due, owned = unpack(KEYS)
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function log(at, n, key, value)
  redis.call('XADD', ev, 'MAXLEN', '~', ARGV[1], at .. '-' .. n, 'k', key, 'v', value)
end
local function mark(at)  -- every revision has an entry, that without changes an empty one
  log(at, 0, '', '')
end
local function current()
  local found = redis.call('GET', rev)
  if not found then
    found = string.format('%.0f', micros)
    redis.call('SET', rev, found)
    mark(found)
  end
  return found
end
local function bump()
  local at = string.format('%.0f', math.max(tonumber(current()) + 1, micros))
  redis.call('SET', rev, at)
  return at
end
local function drop(at, n, key)
  if redis.call('HDEL', rec, key) == 1 then
    redis.call('ZREM', idx, key)
    redis.call('HDEL', owned, key)
    log(at, n, key, '')
    return true
  end
end
"""
_COMMIT = """
local expect, ops = cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
for _, pair in ipairs(expect) do
  local raw = redis.call('HGET', rec, pair[1])
  local found = '0'
  if raw then found = cjson.decode(raw)[3] end
  if found ~= pair[2] then return {'conflict', pair[1], pair[2]} end
end
for _, op in ipairs(ops) do
  if op[3] and op[3] ~= '' and redis.call('HEXISTS', lease, op[3]) == 0 then
    return {'lease', op[3]}
  end
end
local at, changed = bump(), false
for n, op in ipairs(ops) do
  if #op == 1 then
    changed = drop(at, n, op[1]) or changed
  else
    changed = true
    local raw = redis.call('HGET', rec, op[1])
    local created = at
    if raw then created = cjson.decode(raw)[2] end
    local value = cjson.encode({op[2], created, at, op[3]})
    redis.call('HSET', rec, op[1], value)
    redis.call('ZADD', idx, 0, op[1])
    if op[3] == '' then redis.call('HDEL', owned, op[1])
    else redis.call('HSET', owned, op[1], op[3]) end
    log(at, n, op[1], value)
  end
end
if not changed then mark(at) end
return {'ok', at}
"""
_READ = """
local keys = redis.call('ZRANGEBYLEX', idx, ARGV[2], ARGV[3])
local found = {}
for n = 1, #keys, 500 do
  local part = redis.call('HMGET', rec, unpack(keys, n, math.min(n + 499, #keys)))
  for i, value in ipairs(part) do
    found[#found + 1] = keys[n + i - 1]
    found[#found + 1] = value
  end
end
return {current(), found}
"""
_GRANT = """
redis.call('HSET', lease, ARGV[2], ARGV[4])
redis.call('ZADD', due, now + ARGV[3], ARGV[2])
return now
"""
_RENEW = """
local gone = {}
for n = 2, #ARGV do
  local raw = redis.call('HGET', lease, ARGV[n])
  local at = redis.call('ZSCORE', due, ARGV[n])
  if not raw then
    gone[#gone + 1] = ARGV[n]
  else
    local found = cjson.decode(raw)
    if found.strict and tonumber(at) <= now then
      gone[#gone + 1] = ARGV[n]
    else
      redis.call('ZADD', due, now + found.ttl * 1000, ARGV[n])
    end
  end
end
return gone
"""
_REVOKE = """
local ended, gone = 0, {}
for n = 3, #ARGV do
  local at = redis.call('ZSCORE', due, ARGV[n])
  if at and (ARGV[2] == '0' or tonumber(at) <= now) then
    redis.call('ZREM', due, ARGV[n])
    redis.call('HDEL', lease, ARGV[n])
    gone[ARGV[n]] = true
    ended = ended + 1
  end
end
if ended > 0 then
  local keys = {}
  local all = redis.call('HGETALL', owned)
  for n = 1, #all, 2 do
    if gone[all[n + 1]] then keys[#keys + 1] = all[n] end
  end
  table.sort(keys)
  if #keys > 0 then
    local at = bump()
    for n, key in ipairs(keys) do drop(at, n, key) end
  end
end
return ended
"""
_LEASES = """
local ids = redis.call('ZRANGEBYSCORE', due, '-inf', ARGV[2] == '1' and now or '+inf')
local found = {}
for _, id in ipairs(ids) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', lease, id)
  found[#found + 1] = string.format('%.0f', redis.call('ZSCORE', due, id) - now)
end
return found
"""
# What the reader saw last must be in the log: else it was trimmed, or this is another
# history, of a server that forgot.
_EVENTS = """
local at, most = ARGV[2], tonumber(ARGV[3])
if at == current() then return {'ok', {}} end
if not redis.call('XRANGE', ev, at, at, 'COUNT', 1)[1] then
  local first = redis.call('XRANGE', ev, '-', '+', 'COUNT', 1)[1]
  return {'gone', first and first[1] or current()}
end
local next = string.format('%.0f', tonumber(at) + 1)
local rows = redis.call('XRANGE', ev, next, '+', 'COUNT', most)
if #rows == most then  -- one revision may fill more than a batch
  local first = string.match(rows[1][1], '%d+')
  if first == string.match(rows[most][1], '%d+') then
    rows = redis.call('XRANGE', ev, first, first)
  end
end
return {'ok', rows}
"""
_NOW = "return {time[1], time[2]}"
_NAMES: Final = ("rev", "rec", "idx", "ev", "lease", "due", "owned")


@final
class RedisStore:
    """Records, leases and events in seven keys of a Redis database.

    Args:
        url: redis://[user:password@]host:port/db, rediss:// or unix://; `?prefix=name`
            keeps several registries apart.
        keep: how many events a late reader can still get, at least.
        timeout: seconds until a silent server counts as unavailable.
    """

    expires_itself = False
    shared_by_pid = False

    def __init__(
        self, url: str, *, keep: int = KEPT_EVENTS, timeout: float = 5.0
    ) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        prefix = (query.pop("prefix", None) or ["maestro-registry"])[0]
        if query:
            raise InvalidInput("store url", url, "no query but ?prefix=name")
        plain = urlunsplit(parts._replace(query=""))
        self._keys = [f"{{{prefix}}}:{name}" for name in _NAMES]
        self._keep = str(keep)
        self._timeout = timeout
        self._closed = threading.Event()
        self._redis = redis.Redis.from_url(
            plain,
            socket_timeout=timeout + 1.5,
            socket_connect_timeout=timeout,
            decode_responses=True,
        )
        self._scripts: dict[str, Any] = {}

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        high = f"({prefix}\U0010ffff" if prefix else "+"
        revision, flat = self._run(_READ, f"[{prefix}" if prefix else "-", high)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        records = sorted((_record(k, v) for k, v in pairs), key=lambda r: r.key)
        return Snapshot(tuple(records), int(revision))

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations in one script and return its revision."""
        wanted = [[key, str(at)] for key, at in (expect or {}).items()]
        plain = [
            [op.key] if isinstance(op, Delete) else [op.key, op.value, op.lease or ""]
            for op in ops
        ]
        answer = self._run(_COMMIT, json.dumps(wanted), json.dumps(plain))
        if answer[0] == "conflict":
            raise Conflict(answer[1], int(answer[2]))
        if answer[0] == "lease":
            raise LeaseLost(answer[1], "it ended before the commit")
        return int(answer[1])

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds and return its id."""
        id = uuid.uuid4().hex
        raw = {
            "ttl": ttl,
            "strict": strict,
            "owner": owner.to_dict() if owner else None,
        }
        self._run(_GRANT, id, str(int(ttl * 1000)), json.dumps(raw))
        return id

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        return frozenset(self._run(_RENEW, *leases)) if leases else frozenset()

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; return how many ended."""
        return int(self._run(_REVOKE, str(int(only_late)), *leases)) if leases else 0

    def expired(self) -> tuple[Lease, ...]:
        """Return the leases that are late and not swept yet."""
        return self._leases("1")

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases."""
        return self._leases("0")

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        at = since
        while True:
            answer, found = self._run(_EVENTS, str(at), str(BATCH))
            if answer == "gone":
                raise Compacted(since, _revision(found))
            batch = _batch(found, prefix, at)
            left = deadline - time.monotonic()
            if batch.events or left <= 0 or self._closed.is_set():
                return batch
            at = batch.revision
            if not found:
                self._sleep(at, min(left, 1.0))

    def now(self) -> float:
        """Return the server's clock."""
        seconds, micros = self._run(_NOW)
        return int(seconds) + int(micros) / 1e6

    def close(self) -> None:
        """Close the connections; waits end within a second."""
        self._closed.set()
        self._redis.close()

    def compact(self) -> None:
        """Forget all events but the last."""
        self._guard(
            lambda: self._redis.xtrim(self._keys[3], maxlen=1, approximate=False)
        )

    def _sleep(self, after: int, wait: float) -> None:
        """Wait until there is something behind a revision, or for `wait` seconds."""
        position = {self._keys[3]: f"{after}-{2**32}"}
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        self._guard(
            lambda: self._redis.xread(position, count=1, block=int(wait * 1000) + 1)  # type: ignore[arg-type]  # str is an EncodableT
        )

    def _leases(self, late: str) -> tuple[Lease, ...]:
        flat = self._run(_LEASES, late)
        found = []
        for id, text, left in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            raw = json.loads(text)
            owner = Process.of(raw["owner"])
            found.append(Lease(id, raw["ttl"], int(left) / 1000, raw["strict"], owner))
        return tuple(found)

    def _run(self, body: str, *args: str) -> Any:
        script = self._scripts.get(body)
        if script is None:
            script = self._scripts[body] = self._redis.register_script(_PRELUDE + body)
        return self._guard(lambda: script(keys=self._keys, args=[self._keep, *args]))

    def _guard(self, call: Any) -> Any:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        try:
            return call()
        except (redis.RedisError, OSError, ValueError) as error:
            place = self._redis.connection_pool.connection_kwargs
            where = f"{place.get('host', place.get('path'))}:{place.get('port', '')}"
            raise StoreUnavailable(f"Redis at {where}: {error}") from error


def _record(key: str, text: str) -> Record:
    value, created, revision, lease = json.loads(text)
    return Record(key, value, int(created), int(revision), lease or None)


def _revision(id: str) -> int:
    return int(id.partition("-")[0])


def _batch(rows: list[Any], prefix: str, since: int) -> Batch:
    """Keep whole revisions only: the last one of a full batch may go on."""
    if not rows:
        return Batch((), since)
    last = _revision(rows[-1][0])
    if len(rows) >= BATCH and _revision(rows[0][0]) < last:
        rows = [row for row in rows if _revision(row[0]) < last]
    events = []
    for id, (_, key, _, value) in rows:
        if key and key.startswith(prefix):
            record = _record(key, value) if value else None
            events.append(Event(key, _revision(id), record))
    return Batch(tuple(events), _revision(rows[-1][0]))
