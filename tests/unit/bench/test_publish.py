"""How a run gets into the documentation."""

import pytest

from bench.blocks import filled
from bench.publish import medians


def test_only_what_is_between_the_marks_changes() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\nafter\n"
    new = filled(page, {"a": "new \\1", "b": "more"})
    assert new == (
        "before\n<!-- a -->\n\nnew \\1\n\n<!-- /a -->\nbetween\n<!-- b -->\n\nmore\n\n<!-- /b -->\nafter\n"
    )
    assert filled(new, {"a": "new \\1", "b": "more"}) == new


def test_a_page_without_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block c"):
        filled("<!-- a -->\n<!-- /a -->\n", {"c": ""})


def test_medians_are_over_the_rounds_that_were_measured() -> None:
    rounds = [{"cpu_us": 10.0}, None, {"cpu_us": 30.0}, {"cpu_us": 11.0}]
    assert medians({"results": {"relay": {"ours": rounds}}}) == {"relay": {"cpu_us": 11.0}}
