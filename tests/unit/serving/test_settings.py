import hashlib
import re
from pathlib import Path

import pytest

from serving import settings as module
from serving.auth import ApiKey
from serving.settings import (
    PLAIN,
    RENAMED,
    Settings,
    SettingsError,
    environment_warnings,
    load_settings,
    origin_pattern,
    table,
    variable,
    variables,
)

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {each for field in Settings.model_fields for each in variables(field)}:
        monkeypatch.delenv(name, raising=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("TAGGER_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    monkeypatch.setenv("TAGGER_API_KEYS", f"ours:{DIGEST},ops:{OTHER}:admin+predict")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    settings = load_settings()
    assert settings.port == 9000
    assert settings.host == "127.0.0.1"
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.api_keys == (
        ApiKey("ours", bytes.fromhex(DIGEST), frozenset({"predict", "feedback"})),
        ApiKey("ops", bytes.fromhex(OTHER), frozenset({"predict", "admin"})),
    )


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("TAGGER_API_KEYS", "")
    assert (load_settings().port, load_settings().api_keys) == (8000, ())


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TAGGER_OUTBOX", "~/log/outbox.db")
    assert load_settings().outbox == tmp_path / "log/outbox.db"
    monkeypatch.setenv("TAGGER_OUTBOX", "~nobody-has-this-name/outbox.db")
    with pytest.raises(SettingsError, match="TAGGER_OUTBOX"):
        load_settings()


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("PORT", "abc", "a whole number from 0 to 65535 (port)"),
        ("PORT", "65536", "a whole number from 0 to 65535 (port)"),
        ("PORT", "80.5", "a whole number from 0 to 65535 (port)"),
        ("TAGGER_MAX_QUEUE_SECONDS", "0", "a number above 0 to 60 (seconds)"),
        ("TAGGER_CACHE_SIZE", "-1", "a whole number from 0 to 100000000 (texts)"),
        ("TAGGER_LOG_LEVEL", "loud", "debug, info, warning, error or critical"),
        ("TAGGER_LOG_REQUESTS", "perhaps", "true or false"),
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
    monkeypatch.setenv("TAGGER_API_KEYS", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert value not in str(caught.value)
    assert "TAGGER_API_KEYS: " in str(caught.value)


@pytest.mark.parametrize("value", [",", " ", "\n", f"a:{hashlib.sha256().hexdigest()}"])
def test_keys_that_would_open_the_service_are_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TAGGER_API_KEYS", value)
    with pytest.raises(SettingsError, match="TAGGER_API_KEYS"):
        load_settings()


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (f"a:{DIGEST} b:{DIGEST}:admin", "a and b"),
        (f"a:{DIGEST} c:{'0' * 64} b:{DIGEST.upper()}", "a and b"),
        (f"a:{DIGEST}:predict a:{DIGEST}:predict+admin", "a and a"),
    ],
)
def test_a_key_with_two_meanings_is_refused(
    monkeypatch: pytest.MonkeyPatch, entries: str, names: str
) -> None:
    monkeypatch.setenv("TAGGER_API_KEYS", entries)
    with pytest.raises(SettingsError, match=f"the entries {names} have the same digest") as caught:
        load_settings()
    assert DIGEST not in str(caught.value).lower()


def test_a_key_that_is_there_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGER_API_KEYS", f"a:{DIGEST} a:{DIGEST}:feedback+predict")
    assert {key.name for key in load_settings().api_keys} == {"a"}


def test_all_wrong_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("TAGGER_WORKERS", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "PORT",
        "TAGGER_WORKERS",
    ]


@pytest.mark.parametrize(
    ("old", "value", "field"),
    [
        ("WORKERS", "2", "workers"),
        ("STORE_TEXT", "hash", "store_text"),
        ("LOG_TEXT", "none", "store_text"),
        ("QUEUE_SECONDS", "0.5", "max_queue_seconds"),
    ],
)
def test_a_name_of_an_earlier_version_counts_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, old: str, value: str, field: str
) -> None:
    monkeypatch.setenv(old, value)
    assert str(getattr(load_settings(), field)) == value
    new = f"TAGGER_{field.upper()}"
    assert environment_warnings() == [f"{old} is deprecated: its new name is {new}"]


def test_every_name_of_version_0_1_has_a_setting() -> None:
    assert set(RENAMED.values()) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("PORT", "port", "9"),
        ("HOST", "host", "0.0.0.0"),
        ("MONGODB_URI", "mongodb_uri", "mongodb://a"),
        ("LOG_LEVEL", "log_level", "error"),
        ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "/tmp/metrics"),
    ],
)
def test_the_usual_names_count_without_the_prefix(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert field in load_settings().model_fields_set
    assert environment_warnings() == []


def test_the_prefixed_name_comes_first_and_the_other_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST", "x86_64-conda-linux-gnu")
    assert variable("host") == "HOST"
    monkeypatch.setenv("TAGGER_HOST", "127.0.0.2")
    assert load_settings().host == "127.0.0.2"
    assert variable("host") == "TAGGER_HOST"
    assert environment_warnings() == ["HOST is not used: TAGGER_HOST is set"]


@pytest.mark.parametrize("name", ["port", "Port", "workers", "tagger_port", "TAGGER_port", "host"])
def test_names_of_other_programs_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    settings = load_settings()
    assert (settings.port, settings.workers, settings.host) == (8000, 1, "127.0.0.1")


def test_a_misspelt_setting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGER_STORE_TEXTS", "none")
    monkeypatch.setenv("tagger_workers", "2")
    assert environment_warnings() == [
        "TAGGER_STORE_TEXTS is not a setting; did you mean TAGGER_STORE_TEXT?",
        "tagger_workers is not a setting; did you mean TAGGER_WORKERS?",
    ]


def test_what_kubernetes_sets_for_a_service_named_tagger_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAGGER_PORT", "tcp://10.0.0.7:80")
    monkeypatch.setenv("TAGGER_PORT_80_TCP_ADDR", "10.0.0.7")
    monkeypatch.setenv("TAGGER_SERVICE_HOST", "10.0.0.7")
    assert load_settings().port == 8000
    monkeypatch.setenv("PORT", "7860")
    assert load_settings().port == 7860
    (warning,) = environment_warnings()[:1]
    assert warning.startswith("TAGGER_PORT is not used: Kubernetes sets it")


@pytest.mark.parametrize(
    ("value", "level"),
    [("INFO", "info"), (" Warning\n", "warning"), ("WARN", "warning"), ("CRITICAL", "critical")],
)
def test_log_levels_may_be_written_as_other_programs_do(
    monkeypatch: pytest.MonkeyPatch, value: str, level: str
) -> None:
    monkeypatch.setenv("LOG_LEVEL", value)
    assert load_settings().log_level == level


def test_the_line_feed_at_the_end_of_a_secret_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://host/tweets\n")
    monkeypatch.setenv("TAGGER_API_KEYS", f"ours:{DIGEST}\r\n")
    monkeypatch.setenv("TAGGER_OUTBOX", " /var/outbox.db\n")
    monkeypatch.setenv("TAGGER_STORE_TEXT", "None\n")
    settings = load_settings()
    assert settings.mongodb_uri
    assert settings.mongodb_uri.get_secret_value() == "mongodb://host/tweets"
    assert [key.name for key in settings.api_keys] == ["ours"]
    assert settings.outbox == Path("/var/outbox.db")
    assert settings.store_text == "none"


@pytest.mark.parametrize(
    "uri", ["mongodb://host/\ntweets", "mongodb://host/a b", "mongodb://h\x01"]
)
def test_a_mongodb_uri_with_a_blank_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MONGODB_URI", uri)
    with pytest.raises(SettingsError, match=r"^MONGODB_URI: got a value that is not shown here"):
        load_settings()


@pytest.mark.parametrize(
    ("origin", "matches", "others"),
    [
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:5173"],
            ["https://localhost", "http://localhost:1.evil", "http://localhost.evil:80"],
        ),
        (
            "https://*.example.org",
            ["https://a.example.org", "https://b.a.example.org"],
            ["https://example.org", "https://badexample.org", "https://evil/.example.org"],
        ),
        ("app://ours", ["app://ours"], ["app://ourselves", "http://ours"]),
        ("chrome-extension://abcdef", ["chrome-extension://abcdef"], ["chrome-extension://abc"]),
        ("moz-extension://*", ["moz-extension://1b2c-3d"], ["https://1b2c-3d"]),
        ("https://a.example/", ["https://a.example"], ["https://aXexample"]),
        ("HTTPS://A.example:443", ["https://a.example"], ["https://a.example:443"]),
        ("https://b\u00fccher.example", ["https://xn--bcher-kva.example"], []),
        ("http://[::1]:*", ["http://[::1]:3000"], ["http://1"]),
        ("http://[0:0:0:0:0:0:0:1]:03000", ["http://[::1]:3000"], ["http://[::1]"]),
        ("null", ["null"], ["https://null"]),
        ("*", ["https://a.example", "null"], []),
    ],
)
def test_an_origin_matches_what_browsers_send(
    monkeypatch: pytest.MonkeyPatch, origin: str, matches: list[str], others: list[str]
) -> None:
    monkeypatch.setenv("TAGGER_CORS_ORIGINS", f"https://first.example {origin}")
    pattern = re.compile(origin_pattern(load_settings().cors_origins))
    assert [each for each in matches if not pattern.fullmatch(each)] == []
    assert [each for each in others if pattern.fullmatch(each)] == []


@pytest.mark.timeout(10)
def test_an_origin_of_many_labels_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may send one: the pattern must not try each way to divide it."""
    monkeypatch.setenv("TAGGER_CORS_ORIGINS", "https://*.example.org:*")
    pattern = re.compile(origin_pattern(load_settings().cors_origins))
    for labels in ("a." * 5000, "." * 5000, "a" * 10_000, ":1" * 5000):
        assert not pattern.fullmatch(f"https://{labels}x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAGGER_RATE_LIMIT_STORAGE", "redis://user:p4ss#word@redis:6379/0"),
        ("TAGGER_RATE_LIMIT_STORAGE", "redis://user:p4ss/word@redis:6379/0"),
        ("TAGGER_PUBLIC_URL", "https://me:p4ss@example.org"),
        ("TAGGER_BUNDLE", "https://me:p4ss@/"),
    ],
)
def test_a_message_has_no_part_of_a_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: got a value that is not shown") as raised:
        load_settings()
    assert "p4ss" not in str(raised.value)


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "https://a.example/page",
        "https://a*.example",
        "https://a.*",
        "https://u@a",
        "http://localhost:99999",
        "http://localhost:0",
        "http://[::1",
        "http://[::x]",
        "http://::1",
    ],
)
def test_an_origin_that_could_never_match_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("TAGGER_CORS_ORIGINS", origin)
    with pytest.raises(SettingsError, match=r"^TAGGER_CORS_ORIGINS: got .*wanted origins"):
        load_settings()


@pytest.mark.parametrize(
    ("value", "proxies"),
    [("10.0.0.1/8, ::1", ("10.0.0.0/8", "::1")), ("*", ("*",)), ("nginx", None), ("10.0.0", None)],
)
def test_a_proxy_is_an_address_and_not_a_name_that_never_matches(
    monkeypatch: pytest.MonkeyPatch, value: str, proxies: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("TAGGER_TRUSTED_PROXIES", value)
    if proxies is None:
        with pytest.raises(SettingsError, match=r"wanted addresses or networks"):
            load_settings()
    else:
        assert load_settings().trusted_proxies == proxies


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://api.example.org/", "https://api.example.org"),
        ("https://example.org:8443/tagger", "https://example.org:8443/tagger"),
        ("api.example.org", None),
        ("https://a/?b", None),
        ("https://bob:horse@a", None),
        ("https://a:99999", None),
        ("https://a b", None),
    ],
)
def test_the_public_url_is_an_address(
    monkeypatch: pytest.MonkeyPatch, value: str, url: str | None
) -> None:
    monkeypatch.setenv("TAGGER_PUBLIC_URL", value)
    if url is None:
        with pytest.raises(SettingsError, match=r"^TAGGER_PUBLIC_URL: got .*wanted https://host"):
            load_settings()
    else:
        assert load_settings().public_url == url


def test_the_table_has_every_setting_with_a_unit_and_a_description() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        " or ".join(f"`{each}`" for each in variables(name)[: 2 if name in PLAIN else 1])
        for name in Settings.model_fields
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
    monkeypatch.setenv("TAGGER_POLICY", "configs/policy.yaml")
    assert load_settings().policy == Path("configs/policy.yaml")
