-- The dispatcher: who runs, who waits, who is refused, and what happens when somebody dies.
--
-- One script holds every change of state, so no two callers ever see half of one. A call reaps what has lapsed, does
-- its operation, promotes, replies, and marks yields. dispatch.py is its only caller; it knows no pytest or HTTP, and of
-- RQ only that a queue is a list of job ids: one that is promoted is on its worker's queue in the same instant. And it
-- knows which keys RQ would leave behind of a worker process that was killed.
--
--   ARGV[1]   name of the operation (the table `ops` below)
--   ARGV[2]   clock in ms since 1970, "0" = the server's own (tests pass an explicit one)
--   ARGV[3]   arguments, a JSON object
--   ARGV[4]   raw payload, where the operation has one
--   ARGV[5]   an event that comes with it, or an empty string
--   returns   a JSON object; `promoted` [[job, worker], ...] is for its log; `error` is a caller's fault
--
-- Keys                    type    TTL     meaning
--   sc:pool               hash    none    seq (age of the last run), ewma_ms (how long runs take), refused (how many
--                                         were), paused: settings and one row of statistics
--   sc:limits             hash    none    running, queued: the pool's capacities; configuration
--   sc:limits:PROJECT     hash    none    the same of one project; an absent field is no limit
--   sc:held               set     index   jobs that hold a slot; running = its size, no counter that could leak
--   sc:held:PROJECT       set     index   the same, of one project
--   sc:leaving            set     index   held jobs that have been told to yield
--   sc:runs               set     index   runs that hold a slot (running or stopping)
--   sc:hungry             set     index   runs that hold fewer slots than they want and have work for more
--   sc:waiting            set     index   runs that hold no slot and wait for one
--   sc:waiting:PROJECT    set     index   the same, of one project
--   sc:blocked            set     index   runs that wait for their turn in their concurrency group
--   sc:blocked:PROJECT    set     index   the same, of one project; waiting = both sizes
--   sc:lanes              set     index   lanes that are not empty
--   sc:lane:LANE          zset    index   waiting runs of one project and one set of labels that wish for a slot now;
--                                         score = priority * 1e12 + seq; LANE = PROJECT or PROJECT \31 LABEL,LABEL
--   sc:group:GROUP        zset    index   runs of a concurrency group that have not ended -> the limit that each asks
--                                         for; the smallest counts; GROUP = PROJECT \31 NAME
--   sc:turn:GROUP         zset    index   those of them whose turn it is; score = 0 from the first slot to the end,
--                                         before as in a lane
--   sc:behind:GROUP       zset    index   those that wait for their turn; score = as in a lane
--   sc:recorded           zset    7 days  recorded runs -> when, ms; those before the last 1,000 are erased
--   sc:ended              zset    7 days  runs that ended and are not recorded -> ms from which a recorder may claim it;
--                                         each is forgotten with its run
--   sc:withdrawn          zset    1 day   runs of which nothing is kept, as was wanted -> when, ms; those of a day
--   sc:later              zset    index   lost job -> ms at which its slot is wished for again
--   sc:leases             zset    index   e:JOB, w:WORKER, c:RUN -> ms at which it lapses; g:GROUP -> ms at which it is
--                                         looked through for runs that have expired
--   sc:workers            set     index   live workers that take work
--   sc:idle               set     index   those of them that have none
--   sc:worker:WORKER      hash    1 day   host, pid, labels, version, skew_ms, job, quit, suspect (its last job lapsed)
--   sc:exec:JOB           hash    7 days  run, project, n, attempt, worker, host, state (promoted|begun|left|lapsed),
--                                         chunk "a-b,c-d", alone (item), bound "a-b,c-d" (what follows of a group
--                                         that it has begun), seq (last append), asked and answer (last `next`),
--                                         leaving, leaving_for (the run that gets the slot); 1 h once it left
--   sc:control:JOB        list    1 day   mailbox: leave, yield, interrupt, kill, items; newest first
--   sc:run:RUN            hash    7 days  project, lane, labels, priority, seq, want, state, outcome, message, spec,
--                                         total, single, timeout_ms, maxfail, failed, losses, detached, grace_ms,
--                                         concurrency, concurrency_limit, submitted_ms, started_ms, deadline_ms,
--                                         ended_ms
--   sc:run:RUN:offer:ID   list    1 h     nodeids while they are being sent, each time under another ID
--   sc:run:RUN:items      list    7 days  nodeids in collection order
--   sc:run:RUN:joined     string  7 days  bitmap of the items that are of the same group as the item before them
--   sc:run:RUN:pending    list    7 days  ranges "a-b" of items that nobody has
--   sc:run:RUN:alone      list    7 days  items that crashed once, to be tried alone: "a", or with what follows of its
--                                         group "a,b-c,d-e"
--   sc:run:RUN:done       string  7 days  bitmap of the items that are reported
--   sc:run:RUN:trouble    hash    7 days  crash:ITEM, lost:ITEM -> how often
--   sc:run:RUN:held       set     7 days  jobs of the run that hold a slot
--   sc:run:RUN:later      set     7 days  its members of sc:later
--   sc:run:RUN:results    stream  7 days  events to replay and record, never trimmed; field e
--   sc:run:RUN:state      stream  24 h    who runs what, the last 1,000; field e
--   rq:queue:supercheck:WORKER  list  none  RQ's: the job that WORKER is to begin
--
-- index: what is live, without a TTL: a member goes with what it stands for, which has a lease or a run's TTL, and
-- Redis deletes a collection with its last member. A run's TTL starts again whenever somebody keeps or serves it.

if redis.replicate_commands then redis.replicate_commands() end

local LEASE_MS = 15000
local RUN_TTL_MS = 7 * 24 * 3600 * 1000
local RECORDED_LIMIT = 1000
local STATE_TTL_MS = 24 * 3600 * 1000
local WORKER_TTL_MS = 24 * 3600 * 1000
local MAIL_TTL_MS = 24 * 3600 * 1000
local WITHDRAWN_MS = 24 * 3600 * 1000
local LEFT_TTL_MS = 3600 * 1000
local CLAIM_MS = 60 * 1000 -- how long a recorder has for a run before another may try
local READ_MS = 60 * 1000  -- how long sessions have to read the end of a run before it may be forgotten
local CLEARED = 200        -- most runs forgotten at once: nobody else waits long
local STATE_LENGTH = 1000
local RUNNING_CAPACITY = 5
local QUEUED_CAPACITY = 50
local LOSSES = 3           -- how often a lost slot is wished for again without progress between
local ITEM_LOSSES = 3      -- an item that was running at so many losses is reported as failed
local ITEM_CRASHES = 2     -- and at so many crashes of its own process
local CHUNK = 1000         -- most items handed out at once: an answer stays small, and so does what a loss gives back
local PRIORITY_SCORE = 1e12
local EWMA_WEIGHT = 0.2
local RETRY_AFTER_S = 30   -- while nothing is known about how long runs take
local RETRY_AFTER_MAX_S = 600
local PARTS = {'items', 'joined', 'pending', 'alone', 'done', 'trouble', 'held', 'later', 'results'}

local call = redis.call

local function clock()
  local now = tonumber(ARGV[2])
  if now ~= 0 then return now end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local NOW = clock()
local args = cjson.decode(ARGV[3])
local payload = ARGV[4] or ''
local told = ARGV[5] or ''
local promoted = {}

-- Small things --------------------------------------------------------------------------------------------------------

local function int(number) return string.format('%.0f', number) end

local function run_key(run, part)
  if part then return 'sc:run:' .. run .. ':' .. part end
  return 'sc:run:' .. run
end

local function exec_key(job) return 'sc:exec:' .. job end
local function worker_key(worker) return 'sc:worker:' .. worker end
local function queue_key(worker) return 'rq:queue:supercheck:' .. worker end
local function lane_key(lane) return 'sc:lane:' .. lane end

-- Fields of a hash as a table; absent ones are nil, those named in `numbers` are numbers.
local function read(key, names, numbers)
  local values, row = call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do
    if values[i] then row[name] = numbers[name] and tonumber(values[i]) or values[i] end
  end
  return row
end

local RUN_FIELDS = {'project', 'lane', 'labels', 'priority', 'seq', 'want', 'state', 'outcome', 'message', 'total',
                    'single', 'timeout_ms', 'maxfail', 'submitted_ms', 'started_ms', 'deadline_ms', 'detached',
                    'grace_ms', 'concurrency', 'concurrency_limit'}
local RUN_NUMBERS = {priority = true, seq = true, want = true, total = true, single = true, timeout_ms = true,
                     maxfail = true, submitted_ms = true, started_ms = true, deadline_ms = true, grace_ms = true,
                     concurrency_limit = true}

-- A run, or nil when there is none.
local function load_run(id)
  local run = read(run_key(id), RUN_FIELDS, RUN_NUMBERS)
  if not run.state then return nil end
  run.id, run.concurrency = id, run.concurrency or ''
  return run
end

local function set(run, name, value)
  run[name] = value
  call('HSET', run_key(run.id), name, value)
end

local EXEC_FIELDS = {'run', 'project', 'n', 'attempt', 'worker', 'host', 'state', 'chunk', 'alone', 'bound', 'seq',
                     'asked', 'answer', 'leaving', 'leaving_for'}
local EXEC_NUMBERS = {n = true, attempt = true, alone = true, seq = true}

local function load_exec(job)
  local exec = read(exec_key(job), EXEC_FIELDS, EXEC_NUMBERS)
  if not exec.state then return nil end
  exec.job, exec.bound = job, exec.bound or ''
  return exec
end

-- The execution if it holds its slot, else nil.
local function held_exec(job)
  if call('SISMEMBER', 'sc:held', job) == 0 then return nil end
  return load_exec(job)
end

-- An event's JSON from ordered pairs, so that events of a kind look alike.
local function event(pairs_)
  local parts = {}
  for i = 1, #pairs_, 2 do parts[#parts + 1] = cjson.encode(pairs_[i]) .. ':' .. cjson.encode(pairs_[i + 1]) end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function add_result(run_id, line)
  local key = run_key(run_id, 'results')
  call('XADD', key, '*', 'e', line)
  call('PEXPIRE', key, RUN_TTL_MS)
end

local function add_state(run_id, ...)
  local key = run_key(run_id, 'state')
  call('XADD', key, 'MAXLEN', STATE_LENGTH, '*', 'e', event({...}))
  call('PEXPIRE', key, STATE_TTL_MS)
end

local function mail(job, word)
  local key = 'sc:control:' .. job
  call('LPUSH', key, word)
  call('PEXPIRE', key, MAIL_TTL_MS)
end

local function touch(run_id)
  call('PEXPIRE', run_key(run_id), RUN_TTL_MS)
  for _, part in ipairs(PARTS) do call('PEXPIRE', run_key(run_id, part), RUN_TTL_MS) end
end

local function lease(member, ms) call('ZADD', 'sc:leases', NOW + (ms or LEASE_MS), member) end

local function held_jobs(run_id) return call('SMEMBERS', run_key(run_id, 'held')) end
local function held_count(run_id) return call('SCARD', run_key(run_id, 'held')) end

-- Limits and figures --------------------------------------------------------------------------------------------------

local function pool_limits()
  local limits = call('HMGET', 'sc:limits', 'running', 'queued')
  return tonumber(limits[1] or RUNNING_CAPACITY), tonumber(limits[2] or QUEUED_CAPACITY)
end

-- A project's capacities; nil where it has none.
local function project_limits(project)
  local limits = call('HMGET', 'sc:limits:' .. project, 'running', 'queued')
  return limits[1] and tonumber(limits[1]) or nil, limits[2] and tonumber(limits[2]) or nil
end

local function project_full(project)
  local limit = project_limits(project)
  return limit ~= nil and call('SCARD', 'sc:held:' .. project) >= limit
end

local function paused() return call('HGET', 'sc:pool', 'paused') == '1' end

-- Runs that would wait even if every free slot had a worker: those that are blocked need more than a slot.
local function queued_count(waiting, blocked, running, capacity)
  return blocked + math.max(0, waiting - math.max(0, capacity - running))
end

local function project_figures(project, pool_running_capacity)
  local running_limit, queued_limit = project_limits(project)
  if not running_limit and not queued_limit then return nil end
  local running, waiting = call('SCARD', 'sc:held:' .. project), call('SCARD', 'sc:waiting:' .. project)
  local blocked = call('SCARD', 'sc:blocked:' .. project)
  return {
    name = project, running = running, running_capacity = running_limit, queued_capacity = queued_limit,
    waiting = waiting + blocked,
    queued = queued_count(waiting, blocked, running, running_limit or pool_running_capacity),
  }
end

local function figures(project)
  local running_capacity, queued_capacity = pool_limits()
  local running, waiting, blocked = call('SCARD', 'sc:held'), call('SCARD', 'sc:waiting'), call('SCARD', 'sc:blocked')
  return {
    running = running, running_capacity = running_capacity, queued_capacity = queued_capacity,
    waiting = waiting + blocked, queued = queued_count(waiting, blocked, running, running_capacity),
    workers = call('SCARD', 'sc:workers'), idle = call('SCARD', 'sc:idle'), paused = paused() and 1 or 0,
    project = project and project_figures(project, running_capacity),
  }
end

local function score(run) return run.priority * PRIORITY_SCORE + run.seq end

local function concurrency_group(run) return run.project .. '\31' .. run.concurrency end

-- The concurrency group in which a run waits for its turn, or nothing: then it is slots that it waits for.
local function waits_for(run) return call('SISMEMBER', 'sc:blocked', run.id) == 1 and run.concurrency or '' end

-- 1 + the runs that rank before it among those that wait for the same; 0 for a run that does not wait.
local function position(run)
  if run.state ~= 'waiting' then return 0 end
  if waits_for(run) ~= '' then return call('ZRANK', 'sc:behind:' .. concurrency_group(run), run.id) + 1 end
  local before = 0
  for _, lane in ipairs(call('SMEMBERS', 'sc:lanes')) do
    before = before + call('ZCOUNT', lane_key(lane), '-inf', '(' .. int(score(run)))
  end
  return before + 1
end

-- Seconds a run takes, shared by what runs at the same time; nil while unknown.
local function pace_s(now)
  local ewma_ms = tonumber(call('HGET', 'sc:pool', 'ewma_ms') or '')
  local abreast = math.min(now.running_capacity, now.workers)
  if not ewma_ms or abreast < 1 then return nil end
  return ewma_ms / 1000 / abreast
end

-- How long those take whose turn it is, nobody knows.
local function eta_s(run, place, now)
  if run.state ~= 'waiting' then return 0 end
  if waits_for(run) ~= '' then return nil end
  local pace = pace_s(now)
  return pace and pace * place
end

local function retry_after_s(now)
  local pace = pace_s(now)
  return pace and math.max(1, math.min(RETRY_AFTER_MAX_S, math.ceil(pace))) or RETRY_AFTER_S
end

-- Items and chunks ----------------------------------------------------------------------------------------------------

local function done_count(run_id) return call('BITCOUNT', run_key(run_id, 'done')) end

local function is_done(run_id, item) return call('GETBIT', run_key(run_id, 'done'), item) == 1 end

-- The items of a-b that are not reported yet; one read for the whole range.
local function undone_between(run_id, first, last, found)
  local base = math.floor(first / 8)
  local bytes = call('GETRANGE', run_key(run_id, 'done'), base, math.floor(last / 8))
  for item = first, last do
    local byte = string.byte(bytes, math.floor(item / 8) - base + 1) or 0
    if bit.band(byte, bit.rshift(128, item % 8)) == 0 then found[#found + 1] = item end
  end
end

-- Ranges of items are text: "a-b", or several with commas between; none is ''.
local function range(first, last) return int(first) .. '-' .. int(last) end

-- A range and those after it.
local function with_rest(head, rest) return rest == '' and head or head .. ',' .. rest end

-- The first of some ranges, and the rest; nil when there is none.
local function first_range(ranges)
  local first, last, rest = string.match(ranges or '', '^(%d+)-(%d+),?(.*)$')
  return tonumber(first), tonumber(last), rest
end

local function undone_in(run_id, ranges)
  local found = {}
  for first, last in string.gmatch(ranges, '(%d+)-(%d+)') do
    undone_between(run_id, tonumber(first), tonumber(last), found)
  end
  return found
end

-- What an execution still owes of what it was given, in order.
local function undone(exec) return undone_in(exec.run, exec.chunk or '') end

local function push_front(run_id, first, last)
  local key = run_key(run_id, 'pending')
  local front, back = first_range(call('LINDEX', key, 0))
  if front == last + 1 then
    call('LPOP', key)
    last = back
  end
  call('LPUSH', key, range(first, last))
end

-- Give items back to the front of the pending ones, as few ranges as possible, in order.
local function push_back_items(run_id, items)
  local at = #items
  while at >= 1 do
    local last = at
    while at > 1 and items[at - 1] == items[at] - 1 do at = at - 1 end
    push_front(run_id, items[at], items[last])
    at = at - 1
  end
  if #items > 0 then call('PEXPIRE', run_key(run_id, 'pending'), RUN_TTL_MS) end
end

-- Take from the front of the pending items those between `first` and `final`, as ranges.
local function take_pending(run_id, first, final)
  local key, taken = run_key(run_id, 'pending'), {}
  while true do
    local front, back = first_range(call('LINDEX', key, 0))
    if not front or front < first or front > final then break end
    call('LPOP', key)
    if back > final then call('LPUSH', key, range(final + 1, back)) end
    taken[#taken + 1] = range(front, math.min(back, final))
  end
  call('PEXPIRE', key, RUN_TTL_MS)
  return table.concat(taken, ',')
end

-- Groups. What is undone of one is in one place: pending at a stretch, with one execution, or with its item that is to
-- be tried alone. So it is never run by two at a time, and in order.

local function is_joined(run_id, item) return call('GETBIT', run_key(run_id, 'joined'), item) == 1 end

-- The last item of the group that an item is in.
local function group_end(run_id, item)
  while is_joined(run_id, item + 1) do
    item = item + 1
    if item % 8 == 7 then return math.max(item, call('BITPOS', run_key(run_id, 'joined'), 0, (item + 1) / 8) - 1) end
  end
  return item
end

-- The last item from `first` to `last` with which a group ends; nil when they are of one group that goes on.
local function last_border(run_id, first, last)
  for item = last, first, -1 do
    if not is_joined(run_id, item + 1) then return item end
  end
  return nil
end

-- An item that crashed, and has just been left out when its chunk was given back: what follows of its group waits for it.
local function try_alone(run_id, item)
  local rest = take_pending(run_id, item + 1, group_end(run_id, item))
  call('LPUSH', run_key(run_id, 'alone'), with_rest(int(item), rest))
  call('PEXPIRE', run_key(run_id, 'alone'), RUN_TTL_MS)
end

-- Take from an execution all it has not done, but for one item that is accounted for otherwise.
local function give_back(exec, except)
  local back = {}
  for _, item in ipairs(undone_in(exec.run, with_rest(exec.chunk or '', exec.bound))) do
    if item ~= except then back[#back + 1] = item end
  end
  push_back_items(exec.run, back)
  if exec.alone and exec.alone ~= except and not is_done(exec.run, exec.alone) then try_alone(exec.run, exec.alone) end
  call('HDEL', exec_key(exec.job), 'chunk', 'alone', 'bound', 'asked', 'answer')
  exec.chunk, exec.alone, exec.bound = nil, nil, ''
end

local function pending_count(run_id)
  local count = 0
  for _, range in ipairs(call('LRANGE', run_key(run_id, 'pending'), 0, -1)) do
    local first, last = string.match(range, '(%d+)-(%d+)')
    count = count + last - first + 1
  end
  return count
end

local function has_work(run)
  if not run.total then return true end
  return call('EXISTS', run_key(run.id, 'pending'), run_key(run.id, 'alone')) > 0
end

-- Runs: where each one stands -----------------------------------------------------------------------------------------

local function leave_lane(run)
  local key = lane_key(run.lane)
  call('ZREM', key, run.id)
  if call('EXISTS', key) == 0 then call('SREM', 'sc:lanes', run.lane) end
end

local function enter_lane(run)
  call('ZADD', lane_key(run.lane), score(run), run.id)
  call('SADD', 'sc:lanes', run.lane)
end

-- In its lane while it wishes for a slot.
local function line_up(run)
  if run.want > call('SCARD', run_key(run.id, 'later')) then enter_lane(run) else leave_lane(run) end
end

local function leave_waiting(project, run_id)
  for _, key in ipairs({'sc:waiting', 'sc:blocked'}) do
    call('SREM', key, run_id)
    call('SREM', key .. ':' .. project, run_id)
  end
end

local function enter_waiting(key, run)
  leave_waiting(run.project, run.id)
  call('SADD', key, run.id)
  call('SADD', key .. ':' .. run.project, run.id)
end

local function stop_waiting(run)
  leave_lane(run)
  leave_waiting(run.project, run.id)
end

local function forget_later(run)
  local key = run_key(run.id, 'later')
  for _, job in ipairs(call('SMEMBERS', key)) do call('ZREM', 'sc:later', job) end
  call('DEL', key)
end

-- Concurrency groups. Of one, as many runs as its limit says have their turn at a time: from the first slot to the end,
-- and before, while they wait for that slot, as long as they rank before the others. The others are in no lane: nobody
-- waits behind them or yields to them.

local function hold_back(group, run)
  call('ZREM', 'sc:turn:' .. group, run.id)
  call('ZADD', 'sc:behind:' .. group, score(run), run.id)
  enter_waiting('sc:blocked', run)
  leave_lane(run)
end

local function call_up(group, run)
  call('ZREM', 'sc:behind:' .. group, run.id)
  call('ZADD', 'sc:turn:' .. group, score(run), run.id)
  enter_waiting('sc:waiting', run)
  line_up(run)
end

local function forget_peer(group, run_id)
  for _, key in ipairs({'sc:group:', 'sc:turn:', 'sc:behind:'}) do call('ZREM', key .. group, run_id) end
end

-- A run that has expired has left its group to itself.
local function forget_expired(group, run_id)
  forget_peer(group, run_id)
  leave_waiting(string.match(group, '^(.*)\31'), run_id)
end

-- A member at one end of a group's index, and its score; nil when that is empty.
local function peer_at(key, place)
  local found = call('ZRANGE', key, place, place, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

-- Have as many have their turn as may, those that rank before the others.
local function take_turns(group)
  while true do
    local _, limit = peer_at('sc:group:' .. group, 0)
    if not limit then return call('ZREM', 'sc:leases', 'g:' .. group) end
    local first, first_score = peer_at('sc:behind:' .. group, 0)
    local last, last_score = peer_at('sc:turn:' .. group, -1)
    local room = limit - call('ZCARD', 'sc:turn:' .. group)
    local too_many = last and last_score > 0 and (room < 0 or (room == 0 and first and first_score < last_score))
    local id = too_many and last or (room > 0 and first)
    if not id then return end
    local run = load_run(id)
    if not run then forget_expired(group, id) elseif too_many then hold_back(group, run) else call_up(group, run) end
  end
end

local function leave_group(run)
  if run.concurrency == '' then return end
  forget_peer(concurrency_group(run), run.id)
  take_turns(concurrency_group(run))
end

-- A run waits for a slot, if it has begun its turn or needs none, else for its turn first.
local function wait(run)
  local group = concurrency_group(run)
  if run.concurrency == '' or call('ZSCORE', 'sc:turn:' .. group, run.id) == '0' then
    enter_waiting('sc:waiting', run)
    return line_up(run)
  end
  hold_back(group, run)
  take_turns(group)
end

local function leave_indexes(run)
  stop_waiting(run)
  forget_later(run)
  call('SREM', 'sc:hungry', run.id)
  call('SREM', 'sc:runs', run.id)
  call('ZREM', 'sc:leases', 'c:' .. run.id)
  leave_group(run)
end

local function erase(run)
  call('DEL', run_key(run.id), run_key(run.id, 'state'))
  for _, part in ipairs(PARTS) do call('DEL', run_key(run.id, part)) end
end

-- Who has seen the run alive can tell this from a loss of data.
local function withdraw(run)
  erase(run)
  call('ZREMRANGEBYSCORE', 'sc:withdrawn', '-inf', NOW - WITHDRAWN_MS)
  call('ZADD', 'sc:withdrawn', NOW, run.id)
  call('PEXPIRE', 'sc:withdrawn', WITHDRAWN_MS)
end

local function learn_duration(run)
  if not run.started_ms then return end
  local took = NOW - run.started_ms
  local before = tonumber(call('HGET', 'sc:pool', 'ewma_ms') or took)
  call('HSET', 'sc:pool', 'ewma_ms', before + EWMA_WEIGHT * (took - before))
end

-- The run is over: nothing of it is held any more.
local function end_run(run, outcome, message)
  leave_indexes(run)
  if outcome == 'withdrawn' then
    run.state = 'ended'
    return withdraw(run)
  end
  set(run, 'state', 'ended')
  set(run, 'outcome', outcome)
  set(run, 'message', message or '')
  call('HSET', run_key(run.id), 'ended_ms', NOW)
  learn_duration(run)
  add_result(run.id, event({'t', 'end', 'at', NOW, 'outcome', outcome, 'message', message or ''}))
  add_state(run.id, 't', 'end', 'at', NOW, 'outcome', outcome)
  touch(run.id)
  call('ZREMRANGEBYSCORE', 'sc:ended', '-inf', NOW - RUN_TTL_MS)
  call('ZADD', 'sc:ended', NOW, run.id)
  call('PEXPIRE', 'sc:ended', RUN_TTL_MS)
end

-- The run holds no slot: it waits at its old place, or is over.
local function settle_slotless(run)
  call('SREM', 'sc:runs', run.id)
  call('SREM', 'sc:hungry', run.id)
  if run.state == 'stopping' then return end_run(run, run.outcome, run.message) end
  if run.want <= 0 then return end_run(run, 'lost', 'its executions were lost again and again, without progress between') end
  set(run, 'state', 'waiting')
  wait(run)
end

-- Put a run into exactly the indexes that its slots, its wish and its work call for.
local function settle(run)
  if run.state == 'ended' then return end
  local held = held_count(run.id)
  if held == 0 then return settle_slotless(run) end
  stop_waiting(run)
  call('SADD', 'sc:runs', run.id)
  if run.state == 'waiting' then set(run, 'state', 'running') end
  local wish = run.want - held - call('SCARD', run_key(run.id, 'later'))
  local hungry = run.state == 'running' and wish > 0 and has_work(run)
  call(hungry and 'SADD' or 'SREM', 'sc:hungry', run.id)
end

-- Slots and workers ---------------------------------------------------------------------------------------------------

-- What RQ notes of a worker process and its queue, and would keep for ever if that was killed.
local function forget_in_rq(worker)
  call('DEL', queue_key(worker), queue_key(worker) .. ':intermediate', 'rq:wip:supercheck:' .. worker,
       'rq:workers:supercheck:' .. worker)
  call('SREM', 'rq:queues', queue_key(worker))
  call('SREM', 'rq:workers', 'rq:worker:' .. worker)
end

local function forget_worker(worker)
  call('SREM', 'sc:workers', worker)
  call('SREM', 'sc:idle', worker)
  call('ZREM', 'sc:leases', 'w:' .. worker)
  call('DEL', worker_key(worker))
  forget_in_rq(worker)
end

local function free_worker(worker, job)
  if call('HGET', worker_key(worker), 'job') ~= job then return end
  if call('HGET', worker_key(worker), 'quit') then return forget_worker(worker) end
  call('HDEL', worker_key(worker), 'job')
  call('SADD', 'sc:idle', worker)
end

-- The execution holds its slot no longer; what it had must have been given back.
local function free_slot(exec, state)
  call('SREM', 'sc:held', exec.job)
  call('SREM', 'sc:held:' .. exec.project, exec.job)
  call('SREM', run_key(exec.run, 'held'), exec.job)
  call('SREM', 'sc:leaving', exec.job)
  call('ZREM', 'sc:leases', 'e:' .. exec.job)
  if exec.state == 'promoted' then call('LREM', queue_key(exec.worker), 1, exec.job) end
  exec.state = state
  call('HSET', exec_key(exec.job), 'state', state)
  call('PEXPIRE', exec_key(exec.job), LEFT_TTL_MS)
  free_worker(exec.worker, exec.job)
end

-- Take a slot back from an execution that has not begun: it has nothing to finish. Had RQ taken its job already, then its
-- `begin` finds it gone.
local function take_back(run, exec)
  free_slot(exec, 'lapsed')
  add_state(run.id, 't', 'left', 'at', NOW, 'job', exec.job)
end

-- What is finished stays so; else a withdrawal or a fatal error says more than what came before.
local function better_outcome(run, outcome)
  if run.state ~= 'stopping' then return true end
  return outcome == 'withdrawn' or (outcome == 'fatal' and run.outcome ~= 'finished')
end

-- Hand out nothing more, and tell every execution how to go; the run ends with its last one.
local function stop_run(run, outcome, how, message)
  if run.state == 'ended' then return end
  if better_outcome(run, outcome) then
    set(run, 'outcome', outcome)
    set(run, 'message', message or '')
  end
  set(run, 'state', 'stopping')
  forget_later(run)
  for _, job in ipairs(held_jobs(run.id)) do
    local exec = load_exec(job)
    if exec.state == 'promoted' then take_back(run, exec) else mail(job, how) end
  end
  settle(run)
end

local function count_failed(run, failed)
  if failed <= 0 then return end
  local so_far = call('HINCRBY', run_key(run.id), 'failed', failed)
  if run.maxfail > 0 and so_far >= run.maxfail and run.state == 'running' then
    stop_run(run, 'maxfail', 'leave')
  end
end

-- The last item done ends the run.
local function mark_done(run, items)
  if #items == 0 then return end
  local key = run_key(run.id, 'done')
  for _, item in ipairs(items) do call('SETBIT', key, item, 1) end
  call('PEXPIRE', key, RUN_TTL_MS)
  if run.state == 'running' and done_count(run.id) >= run.total then stop_run(run, 'finished', 'leave') end
end

local function reset_losses(run) call('HSET', run_key(run.id), 'losses', 0) end

-- An item that killed its process too often is reported as failed, with what is known about the last time.
local function report_crash(run, exec, item, post_mortem)
  local head = event({'t', 'crash', 'at', NOW, 'i', item, 'n', exec.n, 'job', exec.job})
  add_result(run.id, string.sub(head, 1, -2) .. ',"pm":' .. post_mortem .. '}')
  count_failed(run, 1)
  mark_done(run, {item})
end

local function count_trouble(run, kind, item)
  local key = run_key(run.id, 'trouble')
  local count = call('HINCRBY', key, kind .. ':' .. int(item), 1)
  call('PEXPIRE', key, RUN_TTL_MS)
  return count
end

-- The item that a lost execution was running, if it has been lost too often: it is reported, and returned.
local function charge_loss(run, exec)
  local item = exec.alone or undone(exec)[1]
  if not item or exec.state ~= 'begun' or is_done(run.id, item) then return nil end
  local losses = count_trouble(run, 'lost', item)
  if losses < ITEM_LOSSES then return nil end
  report_crash(run, exec, item, event({'reason', 'lost', 'host', exec.host, 'losses', losses}))
  return item
end

-- A lost slot is wished for again after 2, 4, 8 s; without progress between, the fourth is gone for good.
local function wish_later(run, job)
  local losses = call('HINCRBY', run_key(run.id), 'losses', 1)
  if losses > LOSSES then return set(run, 'want', math.min(run.want, math.max(run.want - 1, held_count(run.id)))) end
  call('ZADD', 'sc:later', NOW + 1000 * 2 ^ losses, job)
  call('SADD', run_key(run.id, 'later'), job)
  call('PEXPIRE', run_key(run.id, 'later'), RUN_TTL_MS)
end

local function lapse(exec)
  local run = load_run(exec.run)
  local charged = charge_loss(run, exec)
  give_back(exec, charged)
  mail(exec.job, 'kill')
  call('PEXPIRE', 'rq:job:' .. exec.job, LEFT_TTL_MS)  -- RQ would have done so at its end
  free_slot(exec, 'lapsed')
  add_state(run.id, 't', 'lapsed', 'at', NOW, 'job', exec.job, 'worker', exec.worker)
  if run.state ~= 'stopping' and run.state ~= 'ended' then wish_later(run, exec.job) end
  settle(run)
end

-- Reaping -------------------------------------------------------------------------------------------------------------

-- A job whose execution or run has expired or was evicted: a slot must not leak because of that.
local function forget_job(job)
  local run_id = string.match(job, '^(.*)%-%d+%-%d+$')
  local project = call('HGET', exec_key(job), 'project') or call('HGET', run_key(run_id), 'project')
  call('SREM', 'sc:held', job)
  call('SREM', 'sc:leaving', job)
  call('SREM', run_key(run_id, 'held'), job)
  if project then call('SREM', 'sc:held:' .. project, job) end
end

local function reap_exec(job)
  local exec = held_exec(job)
  if not exec or not load_run(exec.run) then return forget_job(job) end
  -- Its process may still hang on the worker: others are asked first.
  if call('EXISTS', worker_key(exec.worker)) == 1 then call('HSET', worker_key(exec.worker), 'suspect', 1) end
  lapse(exec)
end

local function reap_worker(worker)
  local job = call('HGET', worker_key(worker), 'job')
  forget_worker(worker)
  local exec = job and held_exec(job)
  if exec and exec.state == 'promoted' then lapse(exec) end
end

local function reap_controller(run_id)
  local run = load_run(run_id)
  if run then stop_run(run, 'abandoned', 'kill', 'the session that started the run is gone') end
end

local function reap_group(group)
  lease('g:' .. group)
  for _, id in ipairs(call('ZRANGE', 'sc:group:' .. group, 0, -1)) do
    if call('EXISTS', run_key(id)) == 0 then forget_expired(group, id) end
  end
  take_turns(group)
end

local REAPERS = {e = reap_exec, w = reap_worker, c = reap_controller, g = reap_group}

local function reap()
  for _, member in ipairs(call('ZRANGEBYSCORE', 'sc:leases', '-inf', NOW)) do
    call('ZREM', 'sc:leases', member)
    REAPERS[string.sub(member, 1, 1)](string.sub(member, 3))
  end
end

local function wish_again()
  for _, job in ipairs(call('ZRANGEBYSCORE', 'sc:later', '-inf', NOW)) do
    call('ZREM', 'sc:later', job)
    local run = load_run(call('HGET', exec_key(job), 'run') or string.match(job, '^(.*)%-%d+%-%d+$'))
    if run then
      call('SREM', run_key(run.id, 'later'), job)
      settle(run)
    end
  end
end

-- Promotion -----------------------------------------------------------------------------------------------------------

local function label_set(text)
  local labels = {}
  for label in string.gmatch(text or '', '[^,]+') do labels[label] = true end
  return labels
end

local function has_labels(worker_labels, wanted)
  for label in string.gmatch(wanted or '', '[^,]+') do
    if not worker_labels[label] then return false end
  end
  return true
end

local function idle_workers()
  local workers = {}
  for _, id in ipairs(call('SMEMBERS', 'sc:idle')) do
    local worker = read(worker_key(id), {'host', 'labels', 'suspect'}, {suspect = true})
    worker.id, worker.labels = id, label_set(worker.labels)
    workers[#workers + 1] = worker
  end
  return workers
end

-- Live workers with some labels, whether idle or not.
local function fitting_workers(labels)
  if labels == '' then return call('SCARD', 'sc:workers') end
  local count = 0
  for _, id in ipairs(call('SMEMBERS', 'sc:workers')) do
    if has_labels(label_set(call('HGET', worker_key(id), 'labels') or ''), labels) then count = count + 1 end
  end
  return count
end

local function any_worker(workers, labels)
  for _, worker in ipairs(workers) do
    if has_labels(worker.labels, labels) then return true end
  end
  return false
end

-- true when the list a sorts before the list b.
local function before(a, b)
  for i = 1, #a do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end

local function hosts_of(run_id)
  local hosts = {}
  for _, job in ipairs(held_jobs(run_id)) do hosts[call('HGET', exec_key(job), 'host') or ''] = true end
  return hosts
end

-- Index of the best idle worker for a run: not suspect, on a host that serves the run already, on the idlest host.
local function pick_worker(workers, run)
  local serving, idle_on, best, best_rank = hosts_of(run.id), {}, nil, nil
  for _, worker in ipairs(workers) do idle_on[worker.host] = (idle_on[worker.host] or 0) + 1 end
  for i, worker in ipairs(workers) do
    local rank = {worker.suspect or 0, serving[worker.host] and 0 or 1, -idle_on[worker.host], worker.id}
    local may = has_labels(worker.labels, run.labels)
    if may and (not best or before(rank, best_rank)) then best, best_rank = i, rank end
  end
  return best
end

-- The first waiting run of a lane, dropping members whose run has expired.
local function lane_head(lane)
  while true do
    local id = call('ZRANGE', lane_key(lane), 0, 0)[1]
    if not id then return call('SREM', 'sc:lanes', lane) and nil end
    local run = load_run(id)
    if run then return run end
    call('ZREM', lane_key(lane), id)
    leave_waiting(string.match(lane, '^[^\31]*'), id)
  end
end

local function contenders()
  local runs = {}
  for _, lane in ipairs(call('SMEMBERS', 'sc:lanes')) do runs[#runs + 1] = lane_head(lane) end
  for _, id in ipairs(call('SMEMBERS', 'sc:hungry')) do runs[#runs + 1] = load_run(id) end
  return runs
end

-- Who gets the next slot: priority, a first slot before a second, the project with the least, the run with the
-- fewest, age.
local function next_in_rank(workers)
  local best, best_rank
  for _, run in ipairs(contenders()) do
    local held = held_count(run.id)
    local rank = {run.priority, held == 0 and 0 or 1, call('SCARD', 'sc:held:' .. run.project), held, run.seq}
    if (not best or before(rank, best_rank)) and not project_full(run.project) and any_worker(workers, run.labels) then
      best, best_rank = run, rank
    end
  end
  return best
end

local function free_number(run_id)
  local taken, n = {}, 1
  for _, job in ipairs(held_jobs(run_id)) do taken[tonumber(string.match(job, '(%d+)%-%d+$'))] = true end
  while taken[n] do n = n + 1 end
  return n
end

local function promote(run, worker)
  local n = free_number(run.id)
  local attempt = call('HINCRBY', run_key(run.id), 'attempt:' .. n, 1)
  local job = run.id .. '-' .. n .. '-' .. attempt
  call('SADD', 'sc:held', job)
  call('SADD', 'sc:held:' .. run.project, job)
  call('SADD', run_key(run.id, 'held'), job)
  call('PEXPIRE', run_key(run.id, 'held'), RUN_TTL_MS)
  call('HSET', exec_key(job), 'run', run.id, 'project', run.project, 'n', n, 'attempt', attempt,
       'worker', worker.id, 'host', worker.host, 'state', 'promoted', 'seq', 0)
  call('PEXPIRE', exec_key(job), RUN_TTL_MS)
  lease('e:' .. job)
  call('SREM', 'sc:idle', worker.id)
  call('HSET', worker_key(worker.id), 'job', job)
  if run.concurrency ~= '' then call('ZADD', 'sc:turn:' .. concurrency_group(run), 0, run.id) end
  add_state(run.id, 't', 'promoted', 'at', NOW, 'n', n, 'job', job, 'worker', worker.id, 'host', worker.host)
  call('RPUSH', queue_key(worker.id), job)
  promoted[#promoted + 1] = {job, worker.id}
  settle(run)
end

local function promote_all()
  if paused() or call('SCARD', 'sc:idle') == 0 then return end
  local workers, capacity = nil, pool_limits()
  while call('SCARD', 'sc:held') < capacity do
    workers = workers or idle_workers()
    local run = next_in_rank(workers)
    if not run then return end
    promote(run, table.remove(workers, pick_worker(workers, run)))
  end
end

-- Yield ---------------------------------------------------------------------------------------------------------------

-- What each project will hold once everybody who is on the way has left and arrived.
local function new_plan()
  local plan = {}
  return function(project, change)
    plan[project] = (plan[project] or call('SCARD', 'sc:held:' .. project)) + change
    return plan[project]
  end
end

-- Executions on their way out: how many of each run, which waiting runs they serve, and how many serve nobody now.
local function on_their_way(plan)
  local of_run, serves, spare = {}, {}, 0
  for _, job in ipairs(call('SMEMBERS', 'sc:leaving')) do
    local exec = load_exec(job)
    of_run[exec.run] = (of_run[exec.run] or 0) + 1
    plan(exec.project, -1)
    if not serves[exec.leaving_for] and call('SISMEMBER', 'sc:waiting', exec.leaving_for) == 1 then
      serves[exec.leaving_for] = true
    else
      spare = spare + 1
    end
  end
  return of_run, serves, spare
end

-- Runs that hold two slots or more that are not leaving, and how many slots they can give in all.
local function givers(leaving)
  local runs, count = {}, 0
  for _, id in ipairs(call('SMEMBERS', 'sc:runs')) do
    local staying = held_count(id) - (leaving[id] or 0)
    local run = staying >= 2 and load_run(id)
    if run and run.state == 'running' then
      run.staying = staying
      runs[#runs + 1] = run
      count = count + staying - 1
    end
  end
  return runs, count
end

-- The first `count` waiting runs of every lane, in rank order.
local function first_waiters(count)
  local found = {}
  for _, lane in ipairs(call('SMEMBERS', 'sc:lanes')) do
    local members = call('ZRANGE', lane_key(lane), 0, count - 1, 'WITHSCORES')
    for i = 1, #members, 2 do found[#found + 1] = {id = members[i], lane = lane, score = tonumber(members[i + 1])} end
  end
  table.sort(found, function(a, b) return a.score < b.score end)
  return found
end

local function worker_fits(worker, labels)
  if call('SISMEMBER', 'sc:workers', worker) == 0 then return false end
  return has_labels(label_set(call('HGET', worker_key(worker), 'labels') or ''), labels)
end

-- The youngest execution of a run whose worker could serve the waiter, or any if an idle worker could.
local function execution_to_give(giver, waiter, workers)
  local best
  local any = any_worker(workers, waiter.labels)
  for _, job in ipairs(held_jobs(giver.id)) do
    local exec = load_exec(job)
    local may = not exec.leaving and (any or worker_fits(exec.worker, waiter.labels))
    if may and (not best or exec.n > best.n) then best = exec end
  end
  return best
end

-- The run of no higher priority that holds most, and which of its executions goes.
local function best_giver(runs, waiter, own_project_only, workers)
  local best, best_exec, best_rank
  for _, run in ipairs(runs) do
    local rank = {-run.staying, -run.seq}
    local may = run.staying >= 2 and run.priority >= waiter.priority
    if own_project_only and run.project ~= waiter.project then may = false end
    if may and (not best or before(rank, best_rank)) then
      local exec = execution_to_give(run, waiter, workers)
      if exec then best, best_exec, best_rank = run, exec, rank end
    end
  end
  return best, best_exec
end

local function tell_to_yield(giver, exec, waiter)
  giver.staying = giver.staying - 1
  call('HSET', exec_key(exec.job), 'leaving', 'yield', 'leaving_for', waiter.id)
  call('SADD', 'sc:leaving', exec.job)
  mail(exec.job, 'yield')
  add_state(giver.id, 't', 'yield', 'at', NOW, 'job', exec.job, 'for', waiter.id)
end

-- One slot for each run that waits without any, from the run that holds most; slots on their way already count.
-- Where the first of a lane cannot be served, nobody behind it can.
local function mark_yields()
  if call('SCARD', 'sc:lanes') == 0 or paused() or call('SCARD', 'sc:held') > pool_limits() then return end
  local plan = new_plan()
  local leaving, served, spare = on_their_way(plan)
  local runs, count = givers(leaving)
  if count == 0 then return end
  local workers, stuck = idle_workers(), {}
  for _, member in ipairs(first_waiters(count + call('SCARD', 'sc:leaving'))) do
    local waiter = not stuck[member.lane] and load_run(member.id)
    if waiter and (served[waiter.id] or spare > 0) then
      if not served[waiter.id] then spare = spare - 1 end
      plan(waiter.project, 1)
    elseif waiter then
      local limit = project_limits(waiter.project)
      local giver, exec = best_giver(runs, waiter, limit and plan(waiter.project, 0) >= limit, workers)
      stuck[member.lane] = not giver
      if giver then
        tell_to_yield(giver, exec, waiter)
        plan(giver.project, -1)
        plan(waiter.project, 1)
      end
    end
  end
end

-- Operations of a client ----------------------------------------------------------------------------------------------

local ops = {}

local function status(run)
  local now = figures(run.project)
  local place = position(run)
  return {
    state = run.state, outcome = run.outcome or '', message = run.message or '', held = held_count(run.id),
    position = place, eta_s = eta_s(run, place, now), waits_for = waits_for(run), figures = now,
    done = done_count(run.id), total = run.total,
  }
end

-- A reply for a run that is made after promotion, when its place is known.
local function status_of(run_id)
  return function()
    local run = load_run(run_id)
    return run and status(run) or {state = 'gone', figures = figures()}
  end
end

local function admission(run)
  local now, held, place = figures(run.project), held_count(run.id), position(run)
  return {state = run.state == 'waiting' and 'queued' or 'admitted', held = held, position = place,
          eta_s = eta_s(run, place, now), waits_for = waits_for(run), fitting = fitting_workers(run.labels),
          figures = now}
end

-- true when a run that waits finds no room in the queue, its own project's or the pool's.
local function no_room(now)
  local project = now.project
  return now.queued > now.queued_capacity
    or (project ~= nil and project.queued_capacity ~= nil and project.queued > project.queued_capacity)
end

local function refuse(run)
  leave_indexes(run)
  erase(run)
  promote_all()  -- those whose turn it would have been without it
  call('HINCRBY', 'sc:pool', 'refused', 1)
  local now = figures(run.project)
  return {refused = 1, figures = now, retry_after_s = retry_after_s(now)}
end

local function insert_run()
  local run = {
    id = args.run, project = args.project, labels = args.labels, priority = args.priority, want = args.want,
    state = 'waiting', seq = call('HINCRBY', 'sc:pool', 'seq', 1),
    concurrency = args.concurrency, concurrency_limit = args.concurrency_limit,
  }
  run.lane = run.project .. (run.labels ~= '' and '\31' .. run.labels or '')
  call('HSET', run_key(run.id), 'project', run.project, 'lane', run.lane, 'labels', run.labels,
       'priority', run.priority, 'seq', run.seq, 'want', run.want, 'state', run.state, 'spec', payload,
       'timeout_ms', args.timeout_ms, 'maxfail', args.maxfail, 'detached', args.detached, 'grace_ms', args.grace_ms,
       'concurrency', run.concurrency, 'concurrency_limit', run.concurrency_limit, 'submitted_ms', NOW)
  call('PEXPIRE', run_key(run.id), RUN_TTL_MS)
  call('ZREM', 'sc:withdrawn', run.id)
  if args.detached == 0 then lease('c:' .. run.id, args.grace_ms) end
  add_state(run.id, 't', 'submitted', 'at', NOW)
  if run.concurrency ~= '' then
    call('ZADD', 'sc:group:' .. concurrency_group(run), run.concurrency_limit, run.id)
    lease('g:' .. concurrency_group(run))
  end
  settle(run)
  return run
end

-- Stop those of a run's concurrency group that are over its limit, the oldest first; whether there were any.
local function supersede(run)
  local group, others = concurrency_group(run), {}
  for _, id in ipairs(call('ZRANGE', 'sc:group:' .. group, 0, -1)) do
    local other = load_run(id)
    if other and other.state ~= 'stopping' then others[#others + 1] = other end
  end
  table.sort(others, function(a, b) return a.seq < b.seq end)
  local _, limit = peer_at('sc:group:' .. group, 0)
  for i = 1, #others - limit do stop_run(others[i], 'cancelled', 'interrupt', 'superseded by run ' .. run.id) end
  return #others > limit
end

-- A run that supersedes others has their room in the queue.
function ops.submit()
  local known = load_run(args.run)  -- by a client that lost the answer
  local run = known or insert_run()
  local supersedes = not known and run.concurrency ~= '' and args.cancel_in_progress == 1 and supersede(run)
  return function()
    run = load_run(args.run)
    local reply = admission(run)
    if not known and not supersedes and run.state == 'waiting' and no_room(reply.figures) then return refuse(run) end
    return reply
  end
end

-- Nobody keeps the run alive from here on; it goes on nevertheless.
local function let_go(run)
  set(run, 'detached', 1)
  call('ZREM', 'sc:leases', 'c:' .. run.id)
end

-- Takes the nodeids that lie in a list of their own; a second offer, of whomever, finds some taken.
function ops.offer()
  local run = load_run(args.run)
  local sent = run_key(args.run, 'offer:' .. args.id)
  if not run or run.state == 'ended' then
    call('DEL', sent)
    return {gone = 1}
  end
  if run.total then return call('DEL', sent) and {} end
  if call('LLEN', sent) ~= args.count then
    call('DEL', sent)
    return {again = 1}
  end
  if args.count > 0 then
    call('RENAME', sent, run_key(run.id, 'items'))
    call('RPUSH', run_key(run.id, 'pending'), range(0, args.count - 1))
    if payload ~= '' then call('SET', run_key(run.id, 'joined'), payload) end
    touch(run.id)
  end
  if told ~= '' then add_result(run.id, told) end
  local groups = args.count - call('BITCOUNT', run_key(run.id, 'joined'))
  set(run, 'total', args.count)
  set(run, 'single', args.single)
  set(run, 'want', math.max(1, math.min(run.want, groups)))
  for _, job in ipairs(held_jobs(run.id)) do mail(job, 'items') end
  if args.detached == 1 then let_go(run) end
  settle(run)
  if args.count == 0 then stop_run(run, args.outcome or 'finished', 'leave', args.message) end
  return {}
end

function ops.keep()
  local run = load_run(args.run)
  if run and run.state ~= 'ended' then
    -- One that has lapsed stays so: the run has been abandoned, and only ends.
    if call('ZSCORE', 'sc:leases', 'c:' .. run.id) then lease('c:' .. run.id, run.grace_ms) end
    touch(run.id)
  end
  return status_of(args.run)
end

function ops.detach()
  local run = load_run(args.run)
  if run and run.state ~= 'ended' then let_go(run) end
  return status_of(args.run)
end

function ops.cancel()
  local run = load_run(args.run)
  if run then stop_run(run, args.outcome, args.how, args.message) end
  return status_of(args.run)
end

function ops.priority()
  local run = load_run(args.run)
  if run and run.state ~= 'ended' then
    set(run, 'priority', args.priority)
    settle(run)
  end
  return status_of(args.run)
end

local function queue_row(run, place, now)
  return {
    run = run.id, project = run.project, priority = run.priority, state = run.state,
    held = held_count(run.id), want = run.want, done = done_count(run.id), total = run.total,
    position = place, eta_s = eta_s(run, place, now), waits_for = waits_for(run),
    submitted_ms = run.submitted_ms, started_ms = run.started_ms,
  }
end

local function sorted_runs(key, rank)
  local runs = {}
  for _, id in ipairs(call('SMEMBERS', key)) do runs[#runs + 1] = load_run(id) end
  table.sort(runs, function(a, b) return rank(a) < rank(b) end)
  return runs
end

local function age(run) return run.seq end

function ops.queue()
  return function()
    local now, rows = figures(), {}
    for _, run in ipairs(sorted_runs('sc:runs', age)) do rows[#rows + 1] = queue_row(run, 0, now) end
    for place, run in ipairs(sorted_runs('sc:waiting', score)) do rows[#rows + 1] = queue_row(run, place, now) end
    for _, run in ipairs(sorted_runs('sc:blocked', score)) do rows[#rows + 1] = queue_row(run, position(run), now) end
    return {figures = now, runs = rows}
  end
end

-- Unlike `keep`, nobody's sign of life.
function ops.look() return status_of(args.run) end

-- When a lease was last renewed, or nil.
local function renewed_ms(member)
  local lapses_ms = call('ZSCORE', 'sc:leases', member)
  return lapses_ms and tonumber(lapses_ms) - LEASE_MS or nil
end

local function worker_row(id)
  local worker = read(worker_key(id), {'host', 'pid', 'labels', 'version', 'skew_ms', 'job', 'suspect'}, {pid = true, skew_ms = true})
  return {worker = id, version = worker.version or '', host = worker.host or '', pid = worker.pid or 0, labels = worker.labels or '',
          skew_ms = worker.skew_ms or 0, job = worker.job or '', suspect = worker.suspect and 1 or 0, renewed_ms = renewed_ms('w:' .. id)}
end

local function execution_row(job)
  local exec = load_exec(job)
  if not exec then return nil end
  local item = exec.alone and not is_done(exec.run, exec.alone) and exec.alone or undone(exec)[1]
  return {job = job, run = exec.run, project = exec.project, n = exec.n, attempt = exec.attempt, worker = exec.worker,
          host = exec.host, state = exec.state, leaving = exec.leaving and 1 or 0, renewed_ms = renewed_ms('e:' .. job),
          item = item, nodeid = item and call('LINDEX', run_key(exec.run, 'items'), item) or ''}
end

function ops.pool()
  return function()
    local workers, executions = {}, {}
    for _, id in ipairs(call('SMEMBERS', 'sc:workers')) do workers[#workers + 1] = worker_row(id) end
    for _, job in ipairs(call('SMEMBERS', 'sc:held')) do executions[#executions + 1] = execution_row(job) end
    return {now_ms = NOW, workers = workers, executions = executions, unrecorded = call('ZCARD', 'sc:ended'),
            refused = tonumber(call('HGET', 'sc:pool', 'refused') or 0)}
  end
end

local function set_limit(key, name, value)
  if not value then return end
  if value < 0 then call('HDEL', key, name) else call('HSET', key, name, int(value)) end
end

function ops.limits()
  local key = args.project and 'sc:limits:' .. args.project or 'sc:limits'
  set_limit(key, 'running', args.running)
  set_limit(key, 'queued', args.queued)
  return function() return {figures = figures(args.project)} end
end

function ops.pause()
  call('HSET', 'sc:pool', 'paused', args.on)
  return function() return {figures = figures()} end
end

function ops.tick() return {} end

-- Operations of a recorder --------------------------------------------------------------------------------------------

-- How often each number has been given out, as "N-TIMES".
local function attempts(run_id)
  local found, n = {}, 1
  while true do
    local times = call('HGET', run_key(run_id), 'attempt:' .. n)
    if not times then return found end
    found[n], n = n .. '-' .. times, n + 1
  end
end

local function details(run)
  local more = read(run_key(run.id), {'spec', 'ended_ms'}, {ended_ms = true})
  return {
    run = run.id, project = run.project, priority = run.priority, state = run.state, want = run.want,
    outcome = run.outcome or '', message = run.message or '', total = run.total, spec = more.spec or '{}',
    submitted_ms = run.submitted_ms, started_ms = run.started_ms, ended_ms = more.ended_ms,
    attempts = attempts(run.id), labels = run.labels, timeout_ms = run.timeout_ms, maxfail = run.maxfail,
    concurrency = run.concurrency, concurrency_limit = run.concurrency_limit or 1,
  }
end

function ops.details()
  local run = load_run(args.run)
  return run and details(run) or {gone = 1}
end

-- The run that ended first and that nobody has recorded or is recording.
function ops.claim()
  while true do
    local id = call('ZRANGEBYSCORE', 'sc:ended', '-inf', NOW, 'LIMIT', 0, 1)[1]
    if not id then return {none = 1} end
    local run = load_run(id)
    if run then
      call('ZADD', 'sc:ended', NOW + CLAIM_MS, id)
      return details(run)
    end
    call('ZREM', 'sc:ended', id)
  end
end

local function forget_ended(key, ids)
  for _, id in ipairs(ids) do
    local run = load_run(id)
    if run then (key == 'sc:ended' and withdraw or erase)(run) end
    call('ZREM', key, id)
  end
  return #ids
end

-- The pool keeps the last of the recorded runs, so that they can be run once more.
function ops.recorded()
  call('ZREM', 'sc:ended', args.run)
  call('ZADD', 'sc:recorded', NOW, args.run)
  call('PEXPIRE', 'sc:recorded', RUN_TTL_MS)
  forget_ended('sc:recorded', call('ZRANGE', 'sc:recorded', 0, -(RECORDED_LIMIT + 1)))
  return {}
end

-- What has ended is forgotten, some of it at a time: what is recorded, and what is not where that is wanted.
function ops.clear()
  local key = args.unrecorded == 1 and 'sc:ended' or 'sc:recorded'
  return {cleared = forget_ended(key, call('ZRANGEBYSCORE', key, '-inf', NOW - READ_MS, 'LIMIT', 0, CLEARED))}
end

-- Operations of a worker ----------------------------------------------------------------------------------------------

-- The held job that names this worker: a worker may come back while its work-horse lives on.
local function job_of_worker(worker)
  for _, job in ipairs(call('SMEMBERS', 'sc:held')) do
    if call('HGET', exec_key(job), 'worker') == worker then return job end
  end
  return nil
end

function ops.join()
  local key, job = worker_key(args.worker), job_of_worker(args.worker)
  call('HSET', key, 'host', args.host, 'pid', args.pid, 'labels', args.labels, 'version', args.version,
       'skew_ms', args.clock_ms - NOW)
  call('HDEL', key, 'quit', 'suspect', 'job')
  call('PEXPIRE', key, WORKER_TTL_MS)
  call('SADD', 'sc:workers', args.worker)
  if job then call('HSET', key, 'job', job) else call('SADD', 'sc:idle', args.worker) end
  lease('w:' .. args.worker)
  return {}
end

local function beat_worker(worker)
  if call('PEXPIRE', worker_key(worker), WORKER_TTL_MS) == 0 then return false end
  lease('w:' .. worker)
  return true
end

local function renew_exec(job)
  local exec = held_exec(job)
  if not exec then return false end
  lease('e:' .. job)
  call('PEXPIRE', exec_key(job), RUN_TTL_MS)
  touch(exec.run)
  return true
end

function ops.beat()
  local gone = {}
  for _, worker in ipairs(args.workers) do
    if not beat_worker(worker) then gone[#gone + 1] = worker end
  end
  for _, job in ipairs(args.jobs) do renew_exec(job) end
  return {gone = gone}
end

function ops.quit()
  local key = worker_key(args.worker)
  local job = call('HGET', key, 'job')
  call('SREM', 'sc:workers', args.worker)
  call('SREM', 'sc:idle', args.worker)
  if not job then return forget_worker(args.worker) or {} end
  call('HSET', key, 'quit', 1)
  local exec = held_exec(job)
  if exec and exec.state == 'promoted' then
    local run = load_run(exec.run)
    take_back(run, exec)
    settle(run)
  end
  return {}
end

local function start_run(run)
  if run.started_ms then return end
  set(run, 'started_ms', NOW)
  set(run, 'deadline_ms', run.timeout_ms > 0 and NOW + run.timeout_ms or 0)
end

local function start_exec(exec)
  exec.state = 'begun'
  call('HSET', exec_key(exec.job), 'state', 'begun')
  call('HDEL', worker_key(exec.worker), 'suspect')
  add_result(exec.run, event({'t', 'begin', 'v', 1, 'at', NOW, 'n', exec.n, 'job', exec.job, 'worker', exec.worker,
                              'host', exec.host}))
  add_state(exec.run, 't', 'begin', 'at', NOW, 'n', exec.n, 'job', exec.job, 'worker', exec.worker)
end

function ops.begin()
  local exec = held_exec(args.job)
  if not exec or exec.worker ~= args.worker then return {gone = 1} end
  local run = load_run(exec.run)
  start_run(run)
  if exec.state == 'promoted' then start_exec(exec) end
  lease('e:' .. exec.job)
  touch(run.id)
  return {
    run = run.id, n = exec.n, attempt = exec.attempt, project = run.project, want = run.want, total = run.total,
    spec = call('HGET', run_key(run.id), 'spec'), maxfail = run.maxfail, timeout_ms = run.timeout_ms,
    started_ms = run.started_ms, deadline_ms = run.deadline_ms, now_ms = NOW,
  }
end

function ops.renew() return renew_exec(args.job) and {} or {gone = 1} end

-- Why an execution has to go, or nil.
local function must_leave(run, exec)
  if run.state == 'stopping' then return run.outcome == 'finished' and 'done' or 'stop' end
  return exec.leaving
end

-- Items first to last with their nodeids, as a reply.
local function items_reply(run, first, last, alone)
  local items = {}
  for i, nodeid in ipairs(call('LRANGE', run_key(run.id, 'items'), first, last)) do
    items[i] = {first + i - 1, nodeid}
  end
  return {items = items, alone = alone}
end

local function hand_out_alone(run, exec)
  local item, rest = string.match(call('LPOP', run_key(run.id, 'alone')), '^(%d+),?(.*)$')
  item = tonumber(item)
  call('HSET', exec_key(exec.job), 'alone', item, 'chunk', '', 'bound', rest, 'answer', range(item, item))
  add_state(run.id, 't', 'chunk', 'at', NOW, 'job', exec.job, 'a', item, 'b', item)
  return items_reply(run, item, item, 1)
end

local function chunk_limit(run, first) return first < run.single and 1 or CHUNK end

-- A share of what is pending, from its front: whole groups, at least one.
local function take_share(run)
  local first, last = first_range(call('LINDEX', run_key(run.id, 'pending'), 0))
  local share = math.ceil(pending_count(run.id) / (2 * math.max(held_count(run.id), run.want)))
  local size = math.max(1, math.min(chunk_limit(run, first), share))
  local border = last_border(run.id, first, math.min(last, first + size - 1))
  return take_pending(run.id, first, border or group_end(run.id, first))
end

-- Items at a stretch, of the group that the execution has begun or of a new share; what remains of it is bound to the
-- execution. `owed`: the one item that it has not done yet, in front of the new ones.
local function hand_out_chunk(run, exec, owed)
  local first, last, rest = first_range(exec.bound ~= '' and exec.bound or take_share(run))
  local cut = math.min(last, first + chunk_limit(run, first) - 1)
  if cut < last then rest = with_rest(range(cut + 1, last), rest) end
  local chunk = owed and with_rest(range(owed, owed), range(first, cut)) or range(first, cut)
  call('HDEL', exec_key(exec.job), 'alone')
  call('HSET', exec_key(exec.job), 'chunk', chunk, 'bound', rest, 'answer', range(first, cut))
  add_state(run.id, 't', 'chunk', 'at', NOW, 'job', exec.job, 'a', first, 'b', cut)
  return items_reply(run, first, cut, 0)
end

-- The same question again, from a client that lost the answer.
local function answer_again(run, exec)
  local first, last = string.match(exec.answer, '(%d+)-(%d+)')
  return items_reply(run, first, last, exec.alone and 1 or 0)
end

local function hand_out(run, exec)
  local owed = undone(exec)
  local owes_alone = exec.alone and not is_done(run.id, exec.alone)
  if owes_alone then owed[#owed + 1] = exec.alone end
  if #owed > 1 then return {error = exec.job .. ' asks for more and owes ' .. #owed .. ' items'} end
  if exec.bound ~= '' then return owes_alone and {recycle = 1} or hand_out_chunk(run, exec, owed[1]) end
  if not has_work(run) then return {leave = 'done'} end
  local may_alone = args.fresh == 1 and #owed == 0
  if may_alone and call('EXISTS', run_key(run.id, 'alone')) == 1 then return hand_out_alone(run, exec) end
  if owes_alone or call('EXISTS', run_key(run.id, 'pending')) == 0 then return {recycle = 1} end
  return hand_out_chunk(run, exec, owed[1])
end

function ops.next()
  local exec = held_exec(args.job)
  if not exec then return {gone = 1} end
  local run = load_run(exec.run)
  local asked_again = exec.asked == args.nonce
  if asked_again and exec.answer then return answer_again(run, exec) end
  if not asked_again then
    call('HDEL', exec_key(exec.job), 'answer')
    call('HSET', exec_key(exec.job), 'asked', args.nonce)
    count_failed(run, args.failed)
  end
  local reason = must_leave(run, exec)
  -- A slot is wanted elsewhere, but not in the middle of a group.
  if reason and (reason ~= 'yield' or exec.bound == '') then return {leave = reason} end
  if not run.total then return {wait = 1} end
  local reply = hand_out(run, exec)
  settle(run)
  return reply
end

-- Is this the next message of an execution? "new", "old" (taken before) or "gap".
local function sequence(exec)
  if args.seq <= exec.seq then return 'old' end
  if args.seq > exec.seq + 1 then return 'gap' end
  call('HSET', exec_key(exec.job), 'seq', args.seq)
  return 'new'
end

local function gap_error(exec)
  return {error = exec.job .. ' sends ' .. int(args.seq) .. ' after ' .. int(exec.seq)}
end

-- The first of the items that the run does not have, or nil.
local function foreign_item(run, items)
  for _, item in ipairs(items) do
    if item < 0 or item >= (run.total or 0) then return item end
  end
  return nil
end

function ops.append()
  local exec = held_exec(args.job)
  if not exec then return {gone = 1} end
  local run = load_run(exec.run)
  local foreign = foreign_item(run, args.done)
  if foreign then return {error = exec.job .. ' reports item ' .. int(foreign) .. ', which its run does not have'} end
  local order = sequence(exec)
  if order == 'gap' then return gap_error(exec) end
  if order == 'new' then
    if payload ~= '' then add_result(run.id, payload) end
    if #args.done > 0 then reset_losses(run) end
    count_failed(run, args.failed)
    mark_done(run, args.done)
  end
  return {leave = must_leave(run, exec)}
end

function ops.back()
  local exec = held_exec(args.job)
  if not exec then return {gone = 1} end
  give_back(exec)
  settle(load_run(exec.run))
  return {}
end

local function owes(exec, item)
  if exec.alone == item then return true end
  for _, other in ipairs(undone(exec)) do
    if other == item then return true end
  end
  return false
end

-- First crash of an item: once more, alone. Second: it is reported as failed.
local function charge_crash(run, exec, item)
  if count_trouble(run, 'crash', item) < ITEM_CRASHES then return try_alone(run.id, item) end
  report_crash(run, exec, item, payload ~= '' and payload or 'null')
  reset_losses(run)
end

function ops.crash()
  local exec = held_exec(args.job)
  if not exec then return {gone = 1} end
  local run, item, order = load_run(exec.run), args.idx, sequence(exec)
  if order == 'gap' then return gap_error(exec) end
  if order == 'new' then
    local charged = item >= 0 and not is_done(run.id, item) and owes(exec, item)
    give_back(exec, charged and item or nil)
    if charged then charge_crash(run, exec, item) end
    settle(run)
  end
  return {again = item >= 0 and not is_done(run.id, item) and 1 or 0}
end

local function depart(run, exec)
  give_back(exec)
  add_result(run.id, event({'t', 'left', 'at', NOW, 'n', exec.n, 'job', exec.job}))
  add_state(run.id, 't', 'left', 'at', NOW, 'job', exec.job)
  free_slot(exec, 'left')
  settle(run)
end

function ops.leave()
  local exec = load_exec(args.job)
  if not exec or exec.state == 'lapsed' then return {gone = 1} end
  if exec.state == 'left' then return {} end
  if payload ~= '' then add_result(exec.run, payload) end
  depart(load_run(exec.run), exec)
  return {}
end

function ops.fatal()
  local exec = held_exec(args.job)
  if not exec then return {gone = 1} end
  local run = load_run(exec.run)
  -- Before its own slot is freed: a run without slots would go back to the queue.
  stop_run(run, 'fatal', 'kill', args.message)
  if call('SISMEMBER', 'sc:held', exec.job) == 1 then depart(run, exec) end
  return {}
end

function ops.lapse()
  local exec = held_exec(args.job)
  if exec then lapse(exec) end
  return {}
end

-- The call ------------------------------------------------------------------------------------------------------------

local op = ops[ARGV[1]]
if not op then return cjson.encode({error = 'no operation ' .. tostring(ARGV[1])}) end
reap()
wish_again()
local reply = op()
promote_all()
if type(reply) == 'function' then reply = reply() end
mark_yields()
if #promoted > 0 then reply.promoted = promoted end
return cjson.encode(reply)
