"""The TypeScript of the wire models."""

import pytest

from shared.contracts.client import INBOUND, OUTBOUND
from signalling.docgen import typescript


def test_every_event_and_key_is_there() -> None:
    text = typescript.contracts()
    for event, model in (*INBOUND.items(), *OUTBOUND.items()):
        assert f'"{event.value}": ' in text
        interface = text.partition(f"export interface {model.__name__} {{\n")[2].partition("}")[0]
        for name, field in model.model_fields.items():
            assert f"  {field.alias or name}{'' if field.is_required() else '?'}: " in interface


def test_shapes_become_types() -> None:
    text = typescript.contracts()
    assert '  callType: "audio" | "video";\n' in text
    assert "  candidates?: (object | null)[] | null;\n" in text
    assert '  "call:offer": FromPeer<Offer>;\n' in text
    assert '| "user_unavailable"' in text


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="no TypeScript"):
        typescript._type({"type": "oddity"})
