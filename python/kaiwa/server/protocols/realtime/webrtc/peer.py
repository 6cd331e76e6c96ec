"""The connection with one client: ICE, encryption, its tracks and its data channel, by aiortc."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.jitterbuffer import JitterBuffer
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from kaiwa.server.protocols.realtime.webrtc import ice
from kaiwa.server.protocols.realtime.webrtc.limits import Intake, count_pieces
from kaiwa.server.protocols.realtime.webrtc.listener import Listener
from kaiwa.server.protocols.realtime.webrtc.network import Network
from kaiwa.server.protocols.realtime.webrtc.offer import Offer
from kaiwa.server.protocols.realtime.webrtc.track import Incoming, OutgoingTrack
from kaiwa.server.refusal import Refused

#: Name of the data channel with the events.
CHANNEL = "oai-events"
#: Data channels that a client may open.
MOST_CHANNELS = 4
#: Bytes of events that may wait for a client before the server waits too.
MOST_WAITING = 64 << 10
#: Packets that are kept to put them in order, a power of two.
REORDERED = 4


class Peer:
    """One client.

    Attributes:
        intake: what comes in.
    """

    def __init__(self, offer: Offer, network: Network, listener: Listener) -> None:
        self._offer, self._network, self._listener = offer, network, listener
        self._loop = asyncio.get_running_loop()
        self.intake = Intake(self._loop.time, listener.flooded)
        self._outgoing = OutgoingTrack()
        self._channel: RTCDataChannel | None = None
        self._channels = 0
        #: Events that wait for the data channel.
        self._early: list[str] = []
        self._low = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connection = RTCPeerConnection(
            RTCConfiguration(iceServers=_servers(network), bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._connection.add_listener("track", self._on_track)
        self._connection.add_listener("datachannel", self._on_channel)
        self._connection.add_listener("connectionstatechange", self._on_state)

    async def answer(self) -> str:
        """The answer to the offer, as SDP with the addresses of this server.

        Raises:
            Refused: 400, the offer cannot be answered.
        """
        connection, network = self._connection, self._network
        connection.addTrack(self._outgoing)
        transceiver = connection.getTransceivers()[0]
        reorder_less(transceiver.receiver)
        offered = RTCSessionDescription(self._offer.for_peer(candidates=network.helped), "offer")
        try:
            known = RTCRtpReceiver.getCapabilities("audio")
            assert known is not None
            transceiver.setCodecPreferences([c for c in known.codecs if c.name == "opus"])
            await connection.setRemoteDescription(offered)
            place = transceiver.receiver.transport.transport.iceGatherer._connection
            ice.place(place, network, self.intake)
            self._limit_messages()
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:
            # The parts of aiortc that read SDP raise whatever comes of it.
            said = str(error)[:200].encode("ascii", "backslashreplace").decode()
            raise Refused(
                400,
                "bad_parameter",
                f"the offer cannot be answered ({said}); send one of a browser",
            ) from None
        answer: str = connection.localDescription.sdp
        if "a=candidate:" not in answer:
            raise Refused(
                503,
                "webrtc_unavailable",
                "no UDP port is free for another call; try again later, or let the operator widen "
                "--webrtc-ports",
                5,
            )
        return answer

    def _limit_messages(self) -> None:
        """Counts the pieces of messages before they are looked at."""
        sctp: Any = self._connection.sctp
        if sctp is None:
            return
        take = sctp._handle_data

        async def counted(data: bytes) -> None:
            waiting = sum(len(stream.reassembly) for stream in sctp._inbound_streams.values())
            if self.intake.pieces(count_pieces(data), waiting):
                await take(data)

        sctp._handle_data = counted

    # ---- from the client -------------------------------------------------------------------

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._listener.connected()
        elif state in ("closed", "failed"):
            self._low.set()
            self._listener.gone(1000 if state == "closed" else 1006)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if self._listening is None:
            self._listening = self._loop.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        incoming = Incoming()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, AudioFrame):
                    self._listener.heard(incoming.pcm(frame))

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channels += 1
        if self._channels > MOST_CHANNELS:
            self.intake.closed = True
            self._listener.flooded()
        if self._channel is not None or channel.label != CHANNEL:
            return
        self._channel = channel
        channel.bufferedAmountLowThreshold = MOST_WAITING // 2
        channel.add_listener("bufferedamountlow", self._low.set)
        channel.add_listener("close", self._on_channel_closed)
        channel.add_listener("message", self._on_message)
        early, self._early = self._early, []
        for message in early:
            self._send(channel, message)

    def _on_message(self, message: str | bytes) -> None:
        self._listener.told(
            message if isinstance(message, str) else message.decode("utf-8", "replace")
        )

    def _on_channel_closed(self) -> None:
        self._low.set()
        self._listener.gone(1000)

    # ---- to the client ---------------------------------------------------------------------

    def play(self, pcm: bytes) -> None:
        """Sends sound: 16 bits at 24 kHz."""
        self._outgoing.push(pcm)

    def hush(self) -> None:
        """Sound that waits is not sent."""
        self._outgoing.clear()

    def post(self, message: str) -> None:
        """Sends an event, or keeps it until there is a data channel."""
        if not self._offer.events:
            return
        if self._channel is None:
            self._early.append(message)
        else:
            self._send(self._channel, message)

    def _send(self, channel: RTCDataChannel, message: str) -> None:
        # Raises for a channel that is closing, and for a message longer than the client takes.
        with contextlib.suppress(Exception):
            channel.send(message)

    async def room(self) -> None:
        """Waits until the client has taken most of what was sent to it."""
        while self._channel is not None and self._channel.bufferedAmount > MOST_WAITING:
            if self._channel.readyState != "open":
                return
            self._low.clear()
            await self._low.wait()

    async def taken(self, seconds: float) -> None:
        """Waits until it has taken all, but not for ever."""
        until = self._loop.time() + seconds
        while self._channel is not None and self._channel.bufferedAmount:
            if self._channel.readyState != "open" or self._loop.time() >= until:
                return
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Ends the connection and frees what it has."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())

    async def _close(self) -> None:
        self._connection.remove_all_listeners()
        self._low.set()
        if self._listening is not None:
            self._listening.cancel()
        await self._connection.close()


def reorder_less(receiver: RTCRtpReceiver) -> None:
    """Has a receiver keep fewer packets. From the first lost packet on, aiortc keeps as many as it
    has room for, which is 300 ms by itself; the engine has a queue of its own for packets that come
    late."""
    kept: Any = receiver
    kept._RTCRtpReceiver__jitter_buffer = JitterBuffer(capacity=REORDERED, prefetch=1)


def _servers(network: Network) -> list[RTCIceServer]:
    """The servers of STUN and TURN. Without a list aiortc would ask one of Google's."""
    found = [] if network.stun is None else [RTCIceServer(network.stun)]
    if network.turn is not None:
        found.append(RTCIceServer(network.turn, network.turn_user, network.turn_password))
    return found
