"""What the policy service is asked, if there is one. It is somebody else's: plain JSON, no envelope."""

from shared.contracts.wire import UserId, Wire


class MayCall(Wire):
    """``rpc.policy.may_call``: whether ``caller`` may ring ``callee``."""

    caller: UserId
    callee: UserId


class MaySee(Wire):
    """``rpc.policy.may_see``: whether ``asker`` may know if ``user`` is online, and in a call."""

    asker: UserId
    user: UserId


class Verdict(Wire):
    """The answer to both."""

    allowed: bool
