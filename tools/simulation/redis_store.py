"""A Redis in memory: the commands that Kaiwa sends, and its scripts run by Lua itself."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from lupa.lua51 import LuaRuntime, lua_type

Reply: TypeAlias = "int | bytes | str | list[Reply] | ReplyError | None"


class ReplyError(Exception):
    """What Redis refuses; its text begins with a word in capital letters."""


class SortedSet:
    """Members by their score."""

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def add(self, member: bytes, score: float) -> bool:
        """Whether the member is new."""
        new = not self.remove(member)
        self.scores[member] = score
        bisect.insort(self.order, (score, member))
        return new

    def remove(self, member: bytes) -> bool:
        """Whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.order[bisect.bisect_left(self.order, (score, member))]
        return True


class RedisStore:
    """The data, and what commands do to it.

    Attributes:
        readonly: writes are refused, as by a replica.
        commands: how many were carried out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Nothing is stored.

        Args:
            clock: seconds since 1970.
        """
        self._clock = clock
        self._values: dict[bytes, bytes | SortedSet] = {}
        #: Milliseconds since 1970.
        self._ends: dict[bytes, int] = {}
        self.readonly = False
        self.commands = 0
        self._lua = LuaRuntime(encoding=None, unpack_returned_tuples=False)
        self._functions: dict[bytes, Any] = {}
        self._table: Any = self._lua.eval(b"function() return {} end")
        self._redis = self._table()
        self._redis[b"call"] = self._call

    def clear(self) -> None:
        """Everything is lost."""
        self._values.clear()
        self._ends.clear()

    def keys(self) -> list[bytes]:
        """The keys that there are now."""
        return [key for key in list(self._values) if self._get(key) is not None]

    def members(self, key: bytes) -> dict[bytes, float]:
        """A sorted set."""
        found = self._get(key)
        return dict(found.scores) if isinstance(found, SortedSet) else {}

    def run(self, command: list[bytes]) -> Reply:
        """Carries out one command."""
        self.commands += 1
        name = command[0].upper().decode()
        method = getattr(self, f"_do_{name.lower()}", None)
        if method is None:
            return ReplyError(f"ERR unknown command '{name}'")
        if self.readonly and name in _WRITES:
            return ReplyError("READONLY You can't write against a read only replica.")
        try:
            reply: Reply = method(*command[1:])
        except ReplyError as error:
            return error
        except (TypeError, ValueError):
            return ReplyError(f"ERR wrong arguments for '{name}'")
        return reply

    # ---- data ------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _get(self, key: bytes) -> bytes | SortedSet | None:
        """A value that has not expired."""
        end = self._ends.get(key)
        if end is not None and end <= self._now():
            self._values.pop(key, None)
            del self._ends[key]
        return self._values.get(key)

    def _set_of(self, key: bytes, *, make: bool = False) -> SortedSet | None:
        found = self._get(key)
        if isinstance(found, bytes):
            raise ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
        if found is None and make:
            found = self._values[key] = SortedSet()
            self._ends.pop(key, None)
        return found

    def _tidy(self, key: bytes, found: SortedSet) -> None:
        """A sorted set without members does not exist."""
        if not found.scores:
            del self._values[key]
            self._ends.pop(key, None)

    # ---- commands --------------------------------------------------------------------------

    def _do_ping(self) -> Reply:
        return "PONG"

    def _do_client(self, *_: bytes) -> Reply:
        return "OK"

    def _do_select(self, _: bytes) -> Reply:
        return "OK"

    def _do_info(self, *_: bytes) -> Reply:
        return b"# Cluster\r\ncluster_enabled:0\r\n"

    def _do_time(self) -> Reply:
        now = self._clock()
        return [str(int(now)).encode(), str(int(now % 1 * 1e6)).encode()]

    def _do_get(self, key: bytes) -> Reply:
        found = self._get(key)
        if isinstance(found, SortedSet):
            raise ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def _do_set(self, key: bytes, value: bytes, *options: bytes) -> Reply:
        words = [option.upper() for option in options]
        life = None
        if b"PX" in words:
            life = int(options[words.index(b"PX") + 1])
            if life <= 0:
                raise ReplyError("ERR invalid expire time in 'set' command")
        if b"NX" in words and self._get(key) is not None:
            return None
        self._values[key] = value
        self._ends.pop(key, None)
        if life is not None:
            self._ends[key] = self._now() + life
        return "OK"

    def _do_del(self, *keys: bytes) -> Reply:
        count = 0
        for key in keys:
            if self._get(key) is not None:
                del self._values[key]
                self._ends.pop(key, None)
                count += 1
        return count

    def _do_pexpire(self, key: bytes, life: bytes) -> Reply:
        if self._get(key) is None:
            return 0
        self._ends[key] = self._now() + _whole(life)
        return 1

    def _do_zadd(self, key: bytes, *pairs: bytes) -> Reply:
        found = self._set_of(key, make=True)
        assert found is not None
        added = [found.add(pairs[at + 1], float(pairs[at])) for at in range(0, len(pairs), 2)]
        return sum(added)

    def _do_zrem(self, key: bytes, *members: bytes) -> Reply:
        found = self._set_of(key)
        if found is None:
            return 0
        removed = sum([found.remove(member) for member in members])
        self._tidy(key, found)
        return removed

    def _do_zcard(self, key: bytes) -> Reply:
        found = self._set_of(key)
        return len(found.scores) if found is not None else 0

    def _do_zrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Reply:
        found = self._set_of(key)
        if found is None:
            return []
        count = len(found.order)
        start, stop = (_whole(at) + (count if _whole(at) < 0 else 0) for at in (first, last))
        reply: list[Reply] = []
        for score, member in found.order[max(start, 0) : stop + 1]:
            reply.append(member)
            if options and options[0].upper() == b"WITHSCORES":
                reply.append(_number(score))
        return reply

    def _do_zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> Reply:
        found = self._set_of(key)
        if found is None:
            return 0
        old = [m for score, m in found.order if _bound(low) <= score <= _bound(high)]
        for member in old:
            found.remove(member)
        self._tidy(key, found)
        return len(old)

    def _do_eval(self, script: bytes, count: bytes, *rest: bytes) -> Reply:
        function = self._functions.get(script)
        if function is None:
            body = b"function(KEYS, ARGV, redis)\n" + script + b"\nend"
            function = self._functions[script] = self._lua.eval(body)
        keys, arguments = rest[: int(count)], rest[int(count) :]
        try:
            return self._reply(function(self._list(keys), self._list(arguments), self._redis))
        except ReplyError:
            raise
        except Exception as error:
            raise ReplyError(f"ERR {error}") from None

    # ---- Lua -------------------------------------------------------------------------------

    def _list(self, values: Any) -> Any:
        table = self._table()
        for at, value in enumerate(values, 1):
            table[at] = value
        return table

    def _call(self, *words: Any) -> Any:
        """`redis.call`."""
        command = [word if isinstance(word, bytes) else _number(word) for word in words]
        return self._to_lua(self.run(command))

    def _to_lua(self, reply: Reply) -> Any:
        if isinstance(reply, ReplyError):
            raise reply
        if reply is None:
            return False
        if isinstance(reply, str):
            status = self._table()
            status[b"ok"] = reply.encode()
            return status
        if isinstance(reply, list):
            return self._list([self._to_lua(item) for item in reply])
        return reply

    def _reply(self, value: Any) -> Reply:
        """What a script returned."""
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, int | float):
            return int(value)
        if isinstance(value, bytes):
            return value
        if lua_type(value) == "table":
            if value[b"ok"] is not None:
                return str(value[b"ok"].decode())
            items: list[Reply] = []
            while value[len(items) + 1] is not None:
                items.append(self._reply(value[len(items) + 1]))
            return items
        raise ReplyError("ERR a script returned something unknown")


#: Commands that change something, scripts too: which ones write is not known before.
_WRITES = ("SET", "DEL", "PEXPIRE", "ZADD", "ZREM", "ZREMRANGEBYSCORE", "EVAL")


def _whole(text: bytes) -> int:
    number = float(text)
    if number != int(number):
        raise ReplyError("ERR value is not an integer or out of range")
    return int(number)


def _bound(text: bytes) -> float:
    return -math.inf if text == b"-inf" else math.inf if text == b"+inf" else float(text)


def _number(value: float) -> bytes:
    """As Redis writes a score, and Lua a number."""
    return (b"%d" % int(value)) if value == int(value) else repr(float(value)).encode()
