"""Ask the policy service, which the operator may run, which user may call or see which."""

from typing import Literal

from shared import subjects
from shared.contracts.policy import MayCall, MaySee, Verdict
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability import logs
from shared.observability.log_throttle import LogThrottle

log = logs.get(__name__)

TIMEOUT_SECONDS = 0.3
Mode = Literal["off", "optional", "required"]


class PolicyClient:
    """Sends requests to the policy service.

    ``off``: sends none, all is allowed. ``optional``: no answer allows. ``required``: no answer refuses.
    """

    def __init__(self, bus: Bus, mode: Mode) -> None:
        self._bus = bus
        self._mode = mode
        self.unanswered = 0
        """Requests without an answer in time."""
        self._silent = LogThrottle(
            lambda asked: log.warning("no answer from the policy service", asked=asked)
        )

    async def may_call(self, caller: str, callee: str, *, within: float = TIMEOUT_SECONDS) -> bool:
        """Return True if ``caller`` may ring ``callee``. ``within``: seconds, at most :data:`TIMEOUT_SECONDS`.

        Raises :class:`Unavailable` without an answer where the mode is ``required``.
        """
        return await self._ask("may_call", MayCall(caller=caller, callee=callee), within)

    async def may_see(self, asker: str, user: str, *, within: float = TIMEOUT_SECONDS) -> bool:
        """Return True if ``asker`` may know that ``user`` is online. Parameters and errors: :meth:`may_call`."""
        return await self._ask("may_see", MaySee(asker=asker, user=user), within)

    async def _ask(self, verb: str, question: MayCall | MaySee, within: float) -> bool:
        if self._mode == "off":
            return True
        try:
            answer = await self._bus.request(subjects.rpc("policy", verb), question.dump(), timeout=within)
            return Verdict.model_validate_json(answer.data).allowed
        except (Unavailable, ValueError) as error:
            self.unanswered += 1
            if self._mode == "optional":
                return True
            self._silent.note(verb)
            raise Unavailable from error
