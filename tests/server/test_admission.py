"""Letting in over several servers, with a shared state that does as the test says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from tests.server.conftest import MakeKey

from kaiwa.server.access import Access
from kaiwa.server.caller import Caller
from kaiwa.server.limits import LimitReached
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import address
from kaiwa.server.shared.admission import Admission
from kaiwa.server.shared.redis_client import SharedStateUnavailable
from kaiwa.server.shared.signing import Signer
from kaiwa.server.shared.state import SharedState
from kaiwa.server.shared.vouchers import HEADER as VOUCHER

MODEL = "moshika"


class Others:
    """A shared state that is full, unavailable or slow."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.answer: BaseException | None = None
        #: Set when a question has come that is answered only when the test says so.
        self.asked: asyncio.Event | None = None
        self.live: set[str] = set()

    async def enter(self, key_id: str, lease: str, **_: Any) -> None:
        if self.asked is not None:
            self.asked.set()
            await asyncio.Event().wait()
        if self.answer is not None:
            raise self.answer

    def add_lease(self, key_id: str, lease: str) -> None:
        self.live.add(lease)

    def remove_lease(self, lease: str) -> None:
        self.live.remove(lease)


@pytest.fixture
def access(key_path: Path, make_key: MakeKey) -> Access:
    make_key("alice", concurrency=2, per_minute=3)
    return Access(ServerSettings(keys=str(key_path)))


@pytest.fixture
def alice(access: Access) -> Caller:
    (key,) = access._keys.entries()  # type: ignore[union-attr]
    return access.vouched(key.id)


def admission(access: Access, others: Others, closed: bool = False) -> Admission:
    return Admission(access, model=lambda: MODEL, shared=cast(SharedState, others), closed=closed)


async def test_a_lease_is_released_everywhere(access: Access, alice: Caller) -> None:
    others = Others()
    lease = await admission(access, others).enter(alice, 0)
    assert others.live == {lease.id}
    again = await admission(access, others).enter(alice, 1, held=lease)
    assert again is lease
    lease.release()
    lease.release()
    assert others.live == set()
    assert access._limits.live(alice.key_id) == 0


@pytest.mark.parametrize(
    ("answer", "closed", "status"),
    [(LimitReached("concurrency", 2, 5), False, 429), (SharedStateUnavailable(), True, 503)],
)
async def test_what_others_refuse_counts_nowhere(
    access: Access, alice: Caller, answer: Exception, closed: bool, status: int
) -> None:
    others = Others()
    made = admission(access, others, closed)
    first = await made.enter(alice, 0)
    others.answer = answer
    for at in range(5):
        for held in (None, first):
            with pytest.raises(Refused) as refused:
                await made.enter(alice, 1 + at, held=held)
            assert refused.value.status == status
            assert refused.value.retry_after == 5
    assert others.live == {first.id}
    assert access._limits.live(alice.key_id) == 1
    assert not first.released
    others.answer = None
    # Two of three a minute are left, one of two at once.
    await made.enter(alice, 7)
    await made.enter(alice, 8, held=first)
    with pytest.raises(Refused, match="3 connections a minute"):
        await made.enter(alice, 9, held=first)


async def test_without_an_answer_this_servers_own_limits_count(
    access: Access, alice: Caller
) -> None:
    others = Others()
    unanswered: list[str] = []
    others.answer = SharedStateUnavailable()
    made = Admission(
        access,
        model=lambda: MODEL,
        shared=cast(SharedState, others),
        on_unanswered=unanswered.append,
    )
    leases = [await made.enter(alice, at) for at in range(2)]
    with pytest.raises(Refused, match="2 conversations at once"):
        await made.enter(alice, 2)
    # They will be told to the others.
    assert others.live == {lease.id for lease in leases}
    assert unanswered == ["limits"] * 2


async def test_a_caller_who_goes_meanwhile_leaves_nothing(access: Access, alice: Caller) -> None:
    others = Others()
    others.asked = asyncio.Event()
    entering = asyncio.create_task(admission(access, others).enter(alice, 0))
    await others.asked.wait()
    assert access._limits.live(alice.key_id) == 1
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert access._limits.live(alice.key_id) == 0
    assert others.live == set()


@pytest.mark.parametrize(
    ("model", "refused"),
    [("moshika", None), ("moshiko", (403, "not_for_this_key")), (None, (503, "starting"))],
)
async def test_a_key_for_some_models_is_counted_nowhere_for_others(
    model: str | None,
    refused: tuple[int, str] | None,
    key_path: Path,
    make_key: MakeKey,
) -> None:
    make_key("alice", models=("moshika",))
    access, others = Access(ServerSettings(keys=str(key_path))), Others()
    (key,) = access._keys.entries()  # type: ignore[union-attr]
    made = Admission(access, model=lambda: model, shared=cast(SharedState, others))
    if refused is None:
        await made.enter(access.vouched(key.id), 0)
        assert len(others.live) == 1
        return
    with pytest.raises(Refused) as caught:
        await made.enter(access.vouched(key.id), 0)
    assert (caught.value.status, caught.value.code) == refused
    assert not others.live


class Vouching:
    """Two servers: one vouches, the other holds the call."""

    HOLDER = "http://10.0.0.2:8998"

    def __init__(self, access: Access, alice: Caller) -> None:
        self.now = 1_900_000_000.0
        self.alice = alice
        others = Others()
        others.address = self.HOLDER
        self.signer = Signer((b"1" * 32,))
        self.sender = Admission(access, model=lambda: MODEL, signer=self.signer, wall=self.wall)
        self.holder = Admission(
            access,
            model=lambda: MODEL,
            signer=self.signer,
            shared=cast(SharedState, others),
            wall=self.wall,
        )

    def wall(self) -> float:
        return self.now

    def voucher(self, resume: str = "token", to: str = HOLDER) -> dict[str, str]:
        """Headers with a new voucher."""
        return {VOUCHER: self.sender.vouch(self.alice, resume, to)}

    async def refused(self, headers: dict[str, str], **query: str) -> bool:
        """Whether the holder refuses it for its signature."""
        try:
            await self.holder.authorize(headers, query, 0, protocol="kyutai")
        except Refused as refused:
            return (refused.status, refused.code) == (403, "voucher")
        return False


@pytest.fixture
def vouching(access: Access, alice: Caller) -> Vouching:
    return Vouching(access, alice)


async def test_a_voucher_lets_its_caller_in(vouching: Vouching) -> None:
    caller = await vouching.holder.authorize(
        vouching.voucher(), {"resume": "token"}, 0, protocol="kyutai"
    )
    assert caller.key_id == vouching.alice.key_id
    assert (caller.vouched, caller.operator) == (True, False)


async def test_a_voucher_is_for_one_call(vouching: Vouching) -> None:
    headers = vouching.voucher()
    assert await vouching.refused(headers, resume="other")
    assert await vouching.refused(headers)
    assert not await vouching.refused(headers, resume="token")


async def test_a_voucher_counts_once(vouching: Vouching) -> None:
    headers = vouching.voucher()
    assert not await vouching.refused(headers, resume="token")
    assert await vouching.refused(headers, resume="token")
    assert not await vouching.refused(vouching.voucher(), resume="token")


async def test_a_voucher_counts_on_one_server(vouching: Vouching) -> None:
    assert await vouching.refused(vouching.voucher(to="http://10.0.0.3:8998"), resume="token")
    # A server that shares nothing is nowhere to be found by others.
    with pytest.raises(Refused, match="signature"):
        await vouching.sender.authorize(
            vouching.voucher(), {"resume": "token"}, 0, protocol="kyutai"
        )


@pytest.mark.parametrize(("age", "good"), [(11.9, True), (12.1, False), (-1.9, True), (-3, False)])
async def test_a_voucher_counts_soon(vouching: Vouching, age: float, good: bool) -> None:
    headers = vouching.voucher()
    vouching.now += age
    assert await vouching.refused(headers, resume="token") is not good


async def test_a_voucher_of_a_web_page_does_not_count(vouching: Vouching) -> None:
    headers = {**vouching.voucher(), "origin": "https://evil.example"}
    assert await vouching.refused(headers, resume="token")


async def test_other_signed_values_are_no_vouchers(vouching: Vouching) -> None:
    for value in ({"to": Vouching.HOLDER}, "x", None, {}):
        headers = {VOUCHER: vouching.signer.sign("token", value)}
        assert await vouching.refused(headers, resume="token")
    for text in ("", "x", "e30.AAAA"):
        assert await vouching.refused({VOUCHER: text}, resume="token")


async def test_a_voucher_is_for_calls_only(vouching: Vouching) -> None:
    with pytest.raises(Refused, match="wants a key"):
        await vouching.holder.authorize(vouching.voucher(), {"resume": "token"}, 0)


async def test_without_a_secret_a_voucher_is_an_unknown_header(
    access: Access, vouching: Vouching
) -> None:
    with pytest.raises(Refused, match="wants a key"):
        await Admission(access, model=lambda: MODEL).authorize(
            vouching.voucher(), {"resume": "token"}, 0
        )


@pytest.mark.parametrize(
    ("host", "secure", "redis", "wanted"),
    [
        ("10.1.2.3", False, ("redis", 6379), "http://10.1.2.3:8998"),
        ("10.1.2.3", True, None, "https://10.1.2.3:8998"),
        ("fd00::5", False, None, "http://[fd00::5]:8998"),
        ("0.0.0.0", False, ("127.0.0.1", None), "http://127.0.0.1:8998"),
        ("::", False, ("127.0.0.1", 6379), "http://127.0.0.1:8998"),
        ("0.0.0.0", False, ("no-such-host.invalid", 6379), ""),
        ("0.0.0.0", False, None, ""),
    ],
)
async def test_where_a_server_is_reached(
    host: str, secure: bool, redis: tuple[str, int | None] | None, wanted: str
) -> None:
    assert await address.find(host, 8998, secure, redis) == wanted
