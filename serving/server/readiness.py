"""Whether a server is ready, found out at most so often, however many ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from serving import errors


class Readiness:
    """Asks a probe, and gives its outcome to all who ask for a while.

    Anybody may ask whether the server is ready, and the answer is a real prediction.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, holds_s: float) -> None:
        """Asks nothing yet.

        Args:
            probe: Function that returns where all is well, and raises a ServingError where not.
            holds_s: Seconds for which an outcome is believed.
        """
        self._probe = probe
        self._holds_s = holds_s
        self._asking = asyncio.Lock()
        self._asked_at = -float("inf")
        self._outcome: errors.ServingError | None = None

    async def require(self) -> None:
        """Returns where the server is ready.

        Raises:
            ServingError: It is not.
        """
        async with self._asking:  # Those who come meanwhile wait for the same outcome.
            if time.monotonic() - self._asked_at >= self._holds_s:
                try:
                    await self._probe()
                    self._outcome = None
                except errors.ServingError as error:
                    self._outcome = error
                self._asked_at = time.monotonic()
        if self._outcome is not None:
            raise self._outcome.with_traceback(None)  # Else it would grow with each who asks.
