"""Which connection makes room for another."""

import random
from collections import Counter

from services.gateway.limits.unjoined_connections import UnjoinedConnections


def test_the_oldest_connection_of_the_busiest_address_is_closed() -> None:
    unjoined = UnjoinedConnections()
    for connection, address in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a")):
        unjoined.add(connection, address)
    assert unjoined.closable_for("c") == "a1" == unjoined.closable_for("b")
    assert unjoined.closable_for("a") is None
    unjoined.discard("a1")
    unjoined.discard("a2")
    assert unjoined.closable_for("c") == "b1"
    unjoined.discard("b1")
    assert unjoined.closable_for("c") == "a3" or unjoined.closable_for("c") == "b2"
    assert unjoined.closable_for("a") is None


def test_no_connection_is_closed_if_there_is_none() -> None:
    assert UnjoinedConnections().closable_for("a") is None


def test_it_agrees_with_a_count_of_all_connections() -> None:
    chance, unjoined, model = random.Random(7), UnjoinedConnections(), {}
    for n in range(5000):
        if model and chance.random() < 0.45:
            gone = chance.choice(list(model))
            del model[gone]
            unjoined.discard(gone)
        else:
            model[f"c{n}"] = f"a{int(chance.expovariate(0.3))}"
            unjoined.add(f"c{n}", model[f"c{n}"])
        counts = Counter(model.values())
        most = max(counts.values(), default=0)
        assert len(unjoined) == len(model)
        for address in ("a0", "a1", "a9", "new"):
            victim = unjoined.closable_for(address)
            if counts[address] >= most:
                assert victim is None
            else:
                assert victim is not None
                assert counts[model[victim]] == most
                assert victim == next(c for c, at in model.items() if at == model[victim])
    for connection in list(model):
        unjoined.discard(connection)
    assert len(unjoined) == 0 and not unjoined._of and not unjoined._with
