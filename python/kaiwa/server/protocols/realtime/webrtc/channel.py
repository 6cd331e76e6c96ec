"""A client by WebRTC as the channel of a call: its sound is binary messages, its events text."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.protocols.realtime.webrtc.listener import Listener
from kaiwa.server.protocols.realtime.webrtc.network import Network
from kaiwa.server.protocols.realtime.webrtc.offer import Offer
from kaiwa.server.refusal import Refused

if TYPE_CHECKING:
    from kaiwa.server.protocols.realtime.webrtc.peer import Peer

log = logging.getLogger("kaiwa.server")

#: Seconds in which a client has to connect after it got the answer to its offer.
CONNECT_SECONDS = 10.0
#: Seconds without a packet after which a client has gone. It sends at least an answer to the
#: server's reports and checks every five seconds.
LOST_SECONDS = 12.0
#: Seconds that the last events may take.
LAST_SECONDS = 1.0
#: Messages of a client that may wait to be read: a second of sound, and then some.
MOST_UNREAD = 200


class WebRtcChannel(Channel, Listener):
    """One client. Its offer is answered when the call accepts it."""

    def __init__(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        path: str,
        offer: Offer | Refused,
        network: Network,
    ) -> None:
        """A client that waits for its answer.

        Args:
            headers: of the request with the offer, by lower-case names.
            query: its parameters, decoded.
            path: its path.
            offer: what was posted, or why it cannot be used.
            network: where the call is to listen.
        """
        self.headers, self.query, self.path = headers, query, path
        self._offer, self._network = offer, network
        self._asked = False
        self._loop = asyncio.get_running_loop()
        #: The answer, as SDP.
        self.answered: asyncio.Future[str] = self._loop.create_future()
        self._peer: Peer | None = None
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._gone: int | None = None
        self._flooded = False
        self._connected = False
        self._watching: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    # ---- letting in ------------------------------------------------------------------------

    @property
    def accepted(self) -> bool:
        """Whether the offer was answered."""
        return self._peer is not None and self.answered.done()

    @property
    def open(self) -> bool:
        """Whether it was, and nobody has gone."""
        return self.accepted and self._gone is None and self._closing is None

    async def accept(self, subprotocol: str | None = None) -> None:
        """Answers the offer. The client connects afterwards.

        Raises:
            Refused: 400, 503; it cannot be answered.
        """
        del subprotocol
        from kaiwa.server.protocols.realtime.webrtc.peer import Peer

        if isinstance(self._offer, Refused):
            raise self._offer
        peer = Peer(self._offer, self._network, self)
        try:
            answer = await peer.answer()
        except BaseException:
            peer.close()
            raise
        self._peer = peer
        self.answered.set_result(answer)
        self._watching = self._loop.call_later(CONNECT_SECONDS, self._look_whether_connected)

    async def deny(self, refused: Refused) -> bool:
        """Answers the request with a refusal."""
        if not self.answered.done():
            self.answered.set_exception(refused)
        return True

    def _look_whether_connected(self) -> None:
        if not self._connected:
            log.info("a client was answered and did not connect by UDP")
            self.abort()
        else:
            self._look_whether_there()

    def _look_whether_there(self) -> None:
        """Looks once a second whether anything came."""
        if self._gone is not None or self._peer is None:
            return
        if self._loop.time() - self._peer.intake.heard_at > LOST_SECONDS:
            self.abort()
            return
        self._watching = self._loop.call_later(1.0, self._look_whether_there)

    # ---- messages --------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next message: sound (bytes: 16 bits at 24 kHz; none at the beginning, when the client
        is connected) or an event. The very first is the session that was posted with the offer.

        Raises:
            Disconnected: The client has gone.
            Refused: 400, 413, 415; nothing that can be used was posted.
        """
        if not self._asked:
            self._asked = True
            if isinstance(self._offer, Refused):
                raise self._offer
            return json.dumps(self._offer.session)
        message = None if self._flooded else await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise Disconnected(self._gone or 1006, flooded=self._flooded)
        return message

    async def send(self, message: Message) -> None:
        """Sends sound (bytes) or an event; waits while the client takes no events."""
        peer = self._peer
        if peer is None or self._gone is not None:
            raise Disconnected
        if isinstance(message, bytes):
            # Nothing is a sign, too: what waits is not to be heard.
            if message:
                peer.play(message)
            else:
                peer.hush()
            return
        await peer.room()
        if self._gone is not None:
            raise Disconnected
        peer.post(message)

    def connected(self) -> None:
        """The client has connected."""
        if not self._connected:
            self._connected = True
            self._put(b"")

    def heard(self, pcm: bytes) -> None:
        """Sound of the client."""
        self._put(pcm)

    def told(self, message: str) -> None:
        """An event of the client."""
        self._put(message)

    def _put(self, message: Message) -> None:
        if self._gone is None and not self._flooded and self._inbox.qsize() < MOST_UNREAD:
            self._inbox.put_nowait(message)

    # ---- the end ---------------------------------------------------------------------------

    async def close(self, code: int, reason: str) -> None:
        """Closes once the last events were taken, but does not wait long for that."""
        del code, reason
        peer = self._peer
        if peer is None or self._gone is not None:
            raise Disconnected
        await peer.taken(LAST_SECONDS)
        self._end(1000)

    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        """Puts the last events behind what waits, and closes soon."""
        peer = self._peer
        if peer is None or self._closing is not None:
            return
        for message in messages:
            if isinstance(message, str):
                peer.post(message)
        self._closing = self._loop.create_task(self._close_soon(peer))

    async def _close_soon(self, peer: Peer) -> None:
        await peer.taken(LAST_SECONDS)
        self._end(1000)

    def gone(self, code: int) -> None:
        """The client has gone."""
        self._end(code)

    def flooded(self) -> None:
        """The client has sent far too much."""
        self.cut_flood()

    def abort(self) -> None:
        """Breaks the connection."""
        self._end(1006)

    def cut_flood(self) -> None:
        """Cuts off a client that sends far more than a conversation needs."""
        if not self._flooded:
            self._flooded = True
            log.info("a client by WebRTC sent far too much and was cut off")
            self._end(1008)

    def _end(self, code: int) -> None:
        """The connection is over."""
        if self._gone is None:
            self._gone = code
            self._inbox.put_nowait(None)
        if self._watching is not None:
            self._watching.cancel()
        if self._peer is not None:
            self._peer.close()
