from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of an outbox, in a folder that does not exist yet."""
    return tmp_path / "missing" / "outbox.db"
