"""Define the requests to the policy service, which the operator may run: plain JSON, no envelope."""

from shared.contracts.wire import UserId, Wire


class MayCall(Wire):
    """``rpc.policy.may_call``: asks if ``caller`` may ring ``callee``."""

    caller: UserId
    callee: UserId


class MaySee(Wire):
    """``rpc.policy.may_see``: asks if ``asker`` may know that ``user`` is online, and in a call."""

    asker: UserId
    user: UserId


class Verdict(Wire):
    """The answer to both requests. ``allowed``: True if the policy permits it."""

    allowed: bool
