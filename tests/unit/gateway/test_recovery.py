"""A mailbox that cannot be read at once."""

from typing import Any, cast

import pytest

from services.gateway import recovery
from services.gateway.recovery import Recoveries, Recovery
from shared import mailbox
from shared.bus import Bus
from shared.errors import Unavailable
from shared.mailbox import Letter


@pytest.mark.parametrize("failures", [0, 3, None])
async def test_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, failures: int | None) -> None:
    letters = [Letter("call:ended", b'{"callId":"c","seq":%d}' % seq) for seq in (1_000, 2_000)]
    tries = 0

    async def read(*_: Any, **__: Any) -> list[Letter]:
        nonlocal tries
        tries += 1
        if failures is None or tries <= failures:
            raise Unavailable
        return letters

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(recovery, "TRY_AGAIN_SECONDS", (0.0, 0.01))
    monkeypatch.setattr(recovery, "PATIENCE_SECONDS", 0.2)
    here = Recovery("s", direct=True)
    recoveries = Recoveries(cast(Bus, None))
    if failures is None:
        with pytest.raises(Unavailable):
            await recoveries.look(here, last_seq=1_000, lost_at=None, since=0)
        assert tries > 3
        missed = await recoveries.look(here, last_seq=None, lost_at=5, since=0)
        assert (missed.missed, missed.complete) == ([], False), "it would not know anyway"
        return
    missed = await recoveries.look(here, last_seq=1_000, lost_at=None, since=0)
    assert (missed.missed, missed.complete) == (letters[1:], True)
    assert tries == failures + 1
