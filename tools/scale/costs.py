"""`python -m tools.scale.costs`: processor time of what servers share (docs/scale.md).

Needs redis-server and haproxy on this machine. Processor time is counted, not time on the clock,
so other programs disturb it little.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.server.live import wait_until
from tests.server.redis_server import RedisServer, redis_server
from tests.server.test_balancer import answers, balancer
from tests.server.test_replicas import servers
from tests.server.wire import call

import kaiwa
from kaiwa.server.shared import redis_client, state
from kaiwa.server.shared.redis_client import RedisClient
from kaiwa.server.shared.signing import Signer
from kaiwa.server.shared.state import SharedState
from kaiwa.synth import voice

#: Calls that are begun in Redis, and calls and seconds of talk through servers.
BEGUN, TALKING, SECONDS = 20_000, 30, 10
#: Room for all of them on one server, whatever a step takes.
ROOM = ("--slots", 100, "--step-budget-ms", 1000)


def used(process: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def of_redis(redis: RedisServer) -> None:
    """Microseconds of Redis for a call's begin, its renewal, and its end."""

    async def find() -> str:
        return "http://10.0.0.1:8998"

    signer = Signer((b"a secret of these measurements, of no use elsewhere",))
    made = [SharedState(RedisClient(redis.url, None, ""), signer, find) for _ in range(4)]

    async def begin(number: int) -> None:
        shared, key, lease = made[number % 4], f"key{number % 50}", f"lease{number}"
        await shared.mark_used(f"token{number}", time.time() + 60)
        await shared.enter(key, lease, concurrency=10**6, per_minute=10**6, counted=False)
        shared.add_lease(key, lease)
        shared.add_call(f"resume{number}")

    async def write() -> None:
        for shared in made:
            await shared.sync()

    await write()
    marks = [used(redis.process_id)]
    for first in range(0, BEGUN, 32):
        await asyncio.gather(*map(begin, range(first, first + 32)))
        await write()
    marks.append(used(redis.process_id))
    before, state.RENEW_SECONDS = state.RENEW_SECONDS, 0.0
    for _ in range(5):
        await write()
    state.RENEW_SECONDS = before
    marks.append(used(redis.process_id))
    for number in range(BEGUN):
        made[number % 4].remove_lease(f"lease{number}")
        made[number % 4].remove_call(f"resume{number}")
    await write()
    marks.append(used(redis.process_id))
    for shared in made:
        await shared.close()
    for what, a, b, times in zip(
        ("begin", "renewal", "end"), marks, marks[1:], (1, 5, 1), strict=False
    ):
        print(f"Redis, {what} of a call: {1e6 * (b - a) / BEGUN / times:.1f} us")


async def talk(url: str, pages: list[bytes]) -> None:
    """One call of speech in its own time."""
    async with call(url) as chat:

        async def speak() -> None:
            began = time.monotonic()
            for number in range(int(SECONDS * 12.5)):
                await chat.say(pages[number])
                await asyncio.sleep(max(0.0, began + (number + 1) * 0.08 - time.monotonic()))

        speaking = asyncio.create_task(speak())
        heard = 0
        while heard < int(SECONDS * 12.5) - 2:
            await chat.message()
            heard += 1
        await speaking


async def of_calls(what: str, url: Callable[[], str], processes: dict[str, int]) -> None:
    """Share of a core of each process for a call."""
    sound, writer = voice(SECONDS), kaiwa.OggOpusWriter()
    pages = [writer.write(sound[at : at + 1920]) for at in range(0, len(sound), 1920)]
    before = {name: used(number) for name, number in processes.items()}
    await asyncio.gather(*(talk(url(), pages) for _ in range(TALKING)))
    for name, number in processes.items():
        share = (used(number) - before[name]) / TALKING / SECONDS
        print(f"{what}, {name}: {share:.2%} of a core")


async def main() -> None:
    """Measures and prints."""
    # Other programs may keep Redis from answering in time; here that does not matter.
    redis_client.ANSWER_SECONDS = 5.0
    folder = Path(tempfile.mkdtemp())
    with redis_server(folder) as redis:
        await of_redis(redis)
        with servers(2, redis, folder, *ROOM) as (here, there):
            holder = {"server": here.process.pid}
            await of_calls("direct", here.url, holder)
            with balancer(folder, [here.port]) as front:
                wait_until(lambda: answers(front), "HAProxy answers")
                both = {"HAProxy": front.process_id, **holder}
                await of_calls("through HAProxy", front.url, both)
            tokens = []
            for _ in range(TALKING):
                async with call(here.url(resumable=1), False) as chat:
                    tokens.append((await chat.begin())["resume_token"])
                    chat.cut()
            await asyncio.sleep(1)
            pair = {"server between": there.process.pid, **holder}
            await of_calls("passed on", lambda: there.url(resume=tokens.pop()), pair)


if __name__ == "__main__":
    asyncio.run(main())
