"""The Lua scripts: each is one atomic step of the protocol.

A message is a flat list of fields: v, id, type, payload (JSON), key, put (ms),
tries, and reply when somebody waits for the answer. All times come from the
server's clock. Keys are built from the stream's name, so a Redis Cluster, which
wants every key declared, is not supported.
"""

# KEYS: stream, dedupe key or "". ARGV: dedupe seconds in ms, max_length or 0,
# delayed key or "", due in ms from now, keep (waiting keys to count), fields...
PUT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
if KEYS[2] ~= '' then
  local known = redis.call('GET', KEYS[2])
  if known then return {0, known} end
end
local limit = tonumber(ARGV[2])
if limit > 0 then
  local length = redis.call('XLEN', KEYS[1])
  if length >= limit then return {-1, tostring(length)} end
end
fields[#fields + 1] = 'put'
fields[#fields + 1] = string.format('%.0f', now)
local id = ''
for i = 1, #fields, 2 do if fields[i] == 'id' then id = fields[i + 1] end end
if ARGV[3] ~= '' then
  table.insert(fields, 1, KEYS[1])
  redis.call('ZADD', ARGV[3], now + tonumber(ARGV[4]), cjson.encode(fields))
else
  redis.call('XADD', KEYS[1], '*', unpack(fields))
end
if KEYS[2] ~= '' then redis.call('SET', KEYS[2], id, 'PX', ARGV[1]) end
return {1, id}
"""

# KEYS: delayed. ARGV: how many at most. Returns how many were moved.
MOVE_DUE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local fields = cjson.decode(member)
  local target = table.remove(fields, 1)
  redis.call('XADD', target, '*', unpack(fields))
  redis.call('ZREM', KEYS[1], member)
end
return #due
"""

# KEYS: urgent stream, stream. ARGV: group, consumer, count. Takes new jobs, urgent
# ones first. Returns JSON, [[key, id, fields], ...]: one string is parsed many
# times faster than nested answers.
TAKE = """
local found = {}
local free = tonumber(ARGV[3])
for _, key in ipairs(KEYS) do
  if free > #found then
    local got = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2],
                           'COUNT', free - #found, 'STREAMS', key, '>')
    if got then
      for _, entry in ipairs(got[1][2]) do
        found[#found + 1] = {key, entry[1], entry[2]}
      end
    end
  end
end
if #found == 0 then return '[]' end
return cjson.encode(found)
"""

# KEYS: stream. ARGV: group, consumer, idle in ms, start, count.
# Returns {next start, {id, deliveries, fields}..., deleted ids}.
RECLAIM = """
local got = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4],
                       'COUNT', ARGV[5])
local rows = {}
for _, entry in ipairs(got[2]) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
  rows[#rows + 1] = {entry[1], pending[1] and pending[1][4] or 1, entry[2]}
end
return {got[1], rows, got[3] or {}}
"""

# KEYS: stream. ARGV: group, consumer, ids... Returns the ids that are no longer ours.
# Ownership is checked first: a worker that was stopped for a while must not take
# back a job that somebody else runs by now.
BEAT = """
local lost = {}
for i = 3, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if p[1] and p[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

# KEYS: stream. ARGV: group, consumer, delete (1 or 0), operations as JSON:
# [{id, n (deliveries), retry: {key, ms, member} | dead: {key, keep, fields},
#   result: {key, ms, value}, reply: {key, fields}}]
# Returns the ids that were no longer ours: nothing was done for them.
FINISH = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local lost = {}
for _, op in ipairs(cjson.decode(ARGV[4])) do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], op.id, op.id, 1)
  if p[1] and p[1][2] == ARGV[2] and tonumber(p[1][4]) == op.n then
    if op.retry then
      redis.call('ZADD', op.retry.key, now + op.retry.ms, op.retry.member)
    end
    if op.dead then
      redis.call('XADD', op.dead.key, 'MAXLEN', '~', op.dead.keep, '*',
                 unpack(op.dead.fields))
    end
    if op.result then
      redis.call('SET', op.result.key, op.result.value, 'PX', op.result.ms)
    end
    if op.reply then
      redis.call('XADD', op.reply.key, '*', unpack(op.reply.fields))
    end
    redis.call('XACK', KEYS[1], ARGV[1], op.id)
    if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], op.id) end
  else
    lost[#lost + 1] = op.id
  end
end
return lost
"""

# KEYS: stream. ARGV: group, consumer, idle in ms, ids...
# Hands jobs back: they look long abandoned, so the next reclaim takes them at once.
HAND_BACK = """
local given = 0
for i = 4, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if p[1] and p[1][2] == ARGV[2] then
    local count = math.max(tonumber(p[1][4]) - 1, 0)
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3],
               'RETRYCOUNT', count, 'JUSTID')
    given = given + 1
  end
end
return given
"""

# KEYS: dead letters, stream. ARGV: id. Returns 1, or 0 when there is no such letter.
REQUEUE = """
local rows = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #rows == 0 then return 0 end
local keep = {v=1, id=1, type=1, payload=1, key=1, put=1, reply=1}
local fields = {}
local old = rows[1][2]
for i = 1, #old, 2 do
  if keep[old[i]] then
    fields[#fields + 1] = old[i]
    fields[#fields + 1] = old[i + 1]
  end
end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""

# KEYS: delayed, then streams. ARGV: group. Returns 1 when nothing waits, runs or is
# delayed. One script, because a job that fails and is retried at once moves between
# the three faster than three questions can be asked.
EMPTY = """
if redis.call('ZCARD', KEYS[1]) > 0 then return 0 end
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    local known = false
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      local g = {}
      for j = 1, #row, 2 do g[row[j]] = row[j + 1] end
      if g.name == ARGV[1] then
        known = true
        if g.pending > 0 then return 0 end
        -- Not `lag`: deletions can make it unknown.
        local rest = redis.call('XRANGE', KEYS[i], '(' .. g['last-delivered-id'], '+',
                                'COUNT', 1)
        if #rest > 0 then return 0 end
      end
    end
    -- The group is about to be made, and will start with the first entry.
    if not known and redis.call('XLEN', KEYS[i]) > 0 then return 0 end
  end
end
return 1
"""

# KEYS: stream. ARGV: group, idle in ms. Removes workers that are gone and hold nothing.
FORGET_GONE = """
local gone = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local c = {}
  for i = 1, #row, 2 do c[row[i]] = row[i + 1] end
  if c.pending == 0 and c.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], c.name)
    gone = gone + 1
  end
end
return gone
"""
