"""Which servers can be asked for."""

from pathlib import Path

import pytest

from bench import servers
from bench.servers import BenchError


def test_a_folder_is_another_tree_of_ours(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    spec = servers.parse(f"ours={tmp_path}", tmp_path, {"LOG_LEVEL": "error"})
    assert (spec.label, spec.kind, spec.tree) == (f"ours={tmp_path.name}", "ours", tmp_path)
    assert spec.settings == {"LOG_LEVEL": "error"}


@pytest.mark.parametrize("text", ["", "theirs", "node=18", "ours=no-such-commit"])
def test_what_is_no_server_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        servers.parse(text, tmp_path, {})


def test_a_folder_without_services_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no folder 'services'"):
        servers.parse(f"ours={tmp_path}", tmp_path, {})
