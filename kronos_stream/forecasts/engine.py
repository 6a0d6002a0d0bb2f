"""What the forecast stage asks of the engine."""

from collections.abc import Sequence
from typing import Protocol

from ..engine.messages import EngineReply, EngineRequest


class Engine(Protocol):
    """`engine/client.py` in a run; tests bring their own."""

    async def forecast(self, requests: Sequence[EngineRequest]) -> list[EngineReply]:
        """One reply a request, in order."""

    async def prepare(self, requests: Sequence[EngineRequest]) -> None:
        """Warms the prefixes of the bars that follow these."""
