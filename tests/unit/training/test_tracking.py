"""MLflow's address comes from the environment, and an empty one is none."""

from pathlib import Path

import mlflow
import pytest

from training import tracking
from training.errors import ConfigError


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_an_empty_address_is_the_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    # Set in any case, so that monkeypatch removes what MLflow writes into it.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value or "")
    if value is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.connect()
    assert mlflow.get_tracking_uri() == tracking.LOCAL_STORE


def test_a_line_feed_at_the_end_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db\n")
    tracking.connect()
    assert mlflow.get_tracking_uri() == "sqlite:///other.db"


def test_an_address_without_a_store_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:secret@5000")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI: got 'localhost:…', wanted") as e:
        tracking.connect()
    assert "secret" not in str(e.value)
