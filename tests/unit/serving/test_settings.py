from pathlib import Path

import pytest

from serving import settings as module
from serving.auth import ApiKey
from serving.settings import RENAMED, Settings, SettingsError, load_settings, table

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, http://localhost:3000")
    monkeypatch.setenv("API_KEYS", f"ours:{DIGEST},ops:{DIGEST}:admin+predict")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    settings = load_settings()
    assert settings.port == 9000
    assert settings.host == "127.0.0.1"
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.api_keys == (
        ApiKey("ours", bytes.fromhex(DIGEST), frozenset({"predict", "feedback"})),
        ApiKey("ops", bytes.fromhex(DIGEST), frozenset({"predict", "admin"})),
    )


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("API_KEYS", "")
    assert (load_settings().port, load_settings().api_keys) == (8000, ())


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("PORT", "abc", "a whole number from 0 to 65535 (port)"),
        ("PORT", "65536", "a whole number from 0 to 65535 (port)"),
        ("PORT", "80.5", "a whole number from 0 to 65535 (port)"),
        ("MAX_QUEUE_SECONDS", "0", "a number above 0 to 60 (seconds)"),
        ("CACHE_SIZE", "-1", "a whole number from 0 to 100000000 (texts)"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("LOG_REQUESTS", "perhaps", "true or false"),
        ("CORS_ORIGINS", "a.example", "origins, …"),
    ],
)
def test_a_wrong_value_is_reported_with_the_wanted_one(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{key}: got ")
    assert str(value) in str(caught.value)
    assert str(caught.value).endswith(f", wanted {wanted}")


@pytest.mark.parametrize("value", ["hunter2", f"ours:{DIGEST}:everything", "ours:abcd"])
def test_a_wrong_api_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_KEYS", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert value not in str(caught.value)
    assert "API_KEYS: " in str(caught.value)


def test_all_wrong_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("WORKERS", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "PORT",
        "WORKERS",
    ]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_name_of_version_0_1_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv(old, "1")
    with pytest.raises(SettingsError, match=f"^{old}: renamed to {new}$"):
        load_settings()


def test_the_table_has_every_setting_with_a_unit_and_a_description() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"`{name.upper()}`" for name in Settings.model_fields
    ]
    for row in rows:
        _, _, _, unit, what, _ = row.split("|")
        assert unit.strip(), row
        assert what.strip(), row


def test_files_that_no_setting_names_are_the_folders_own_then_the_shipped_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, here = tmp_path / "site" / "serving", tmp_path / "here"
    monkeypatch.setattr(module, "PACKAGE", package)
    here.mkdir()
    monkeypatch.chdir(here)
    assert load_settings().policy == tmp_path / "site" / "configs/policy.yaml"  # a checkout's
    inside = package / "configs/policy.yaml"
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert load_settings().policy == inside  # a wheel's
    assert load_settings().perspective == tmp_path / "site" / "configs/perspective.yaml"
    own = Path("configs/policy.yaml")
    own.parent.mkdir()
    own.touch()
    assert load_settings().policy == own


def test_a_file_that_a_setting_names_is_never_replaced_by_the_shipped_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICY", "configs/policy.yaml")
    assert load_settings().policy == Path("configs/policy.yaml")
