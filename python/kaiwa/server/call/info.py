"""What is in force for a call, for its protocol to tell."""

from __future__ import annotations

from typing import Any

from kaiwa import __version__
from kaiwa.server.call.context import CallContext
from kaiwa.server.call.entry import Admitted
from kaiwa.server.caller import Caller
from kaiwa.server.protocols.base import CallInfo


def call_info(context: CallContext, protocol: str, caller: Caller, admitted: Admitted) -> CallInfo:
    """Facts of a call that has its slot."""
    engine, session = context.state.engine, admitted.session
    assert engine is not None
    choices = (admitted.request, context.settings, engine.default_sampling)

    def sampling(name: str) -> Any:
        """As requested, else as set for the server, else as the model comes."""
        return next(v for v in (getattr(c, name) for c in choices) if v is not None)

    hold = context.held.seconds if admitted.request.resumable else 0
    return CallInfo(
        session_id=str(session.id),
        protocol=protocol,
        model=engine.name,
        synthetic=engine.synthetic,
        version=__version__,
        temp=sampling("temp"),
        temp_text=sampling("temp_text"),
        top_k=int(sampling("top_k")),
        top_k_text=int(sampling("top_k_text")),
        seed=session.seed,
        context_frames=None if engine.moshi is None else engine.moshi.context,
        max_seconds=caller.max_seconds,
        resume_token=session.resume_token if hold else None,
        resume_seconds=hold,
        resumed=admitted.resumed,
        delay_steps=engine.delay_steps,
    )
