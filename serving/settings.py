"""The settings: what an operator may change, read from the environment and from nowhere else.

A setting may name a YAML file, which `load_config` reads. A wrong value stops the start; the
message has the key, the value found and the value wanted. `table` is the source of
docs/configuration.md.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.auth import ApiKey

SECRET = {"api_keys", "mongodb_uri"}
PACKAGE = Path(__file__).parent
SHIPPED_BUNDLE = Path("models/release")
# Settings whose default is a file that the project ships.
SHIPPED_FILES = ("policy", "perspective")
# Names of version 0.1. Ignoring one could, for example, store texts that must not be stored.
RENAMED = {
    "DRAIN_SECONDS": "SHUTDOWN_GRACE_SECONDS",
    "LOG_TEXT": "STORE_TEXT",
    "MAX_REQUESTS": "MAX_CONCURRENT_REQUESTS",
    "QUEUE_SECONDS": "MAX_QUEUE_SECONDS",
}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

Config = TypeVar("Config", bound=BaseModel)


class SettingsError(Exception):
    """A setting, or a file that it names, has unusable values; the text has a line for each."""


def _split(value: object) -> object:
    """Return the parts of a value that are separated by commas or spaces."""
    return tuple(re.findall(r"[^,\s]+", value)) if isinstance(value, str) else value


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"https?://[^/\s]+", value):
        raise ValueError(value)
    return value


Several = (NoDecode, BeforeValidator(_split))
Names = Annotated[tuple[str, ...], *Several]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], *Several]
Keys = Annotated[tuple[Annotated[ApiKey, BeforeValidator(ApiKey.parse)], ...], *Several]


def _setting(default: object, unit: str, description: str, **limits: float) -> Any:
    keywords: dict[str, Any] = {**limits, "json_schema_extra": {"unit": unit}}
    return Field(default, description=description, **keywords)


class Settings(BaseSettings):
    """One field is one setting; its name in capitals is the environment variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = _setting("127.0.0.1", "address", "Address to listen on")
    port: int = _setting(8000, "port", "Port to listen on; 0 takes a free one", ge=0, le=65535)
    workers: int = _setting(
        1, "processes", "Worker processes, each with its own copy of the model", ge=1, le=64
    )
    bundle: Path | None = _setting(
        None,
        "folder",
        "Model bundle; unset: models/production, else models/candidate, else the shipped model",
    )
    watch_seconds: float = _setting(
        2.0, "seconds", "Interval of the check for a new bundle; 0 turns it off", ge=0, le=86_400
    )
    policy: Path = _setting(
        Path("configs/policy.yaml"), "file", "Toxicity bands and moderation actions"
    )
    perspective: Path = _setting(
        Path("configs/perspective.yaml"), "file", "what Perspective's API supports"
    )

    threads: int = _setting(
        0, "threads", "Inference threads of all workers; 0: the container's limit", ge=0, le=256
    )
    batch_tokens: int = _setting(
        256, "tokens", "Size limit of a micro-batch, padding included", ge=1, le=10**6
    )
    max_queue_seconds: float = _setting(
        0.3,
        "seconds",
        "Longest expected time until a request that waits for others is answered (a longer list: "
        "until it starts); above it requests get 429",
        gt=0,
        le=60,
    )
    request_timeout_seconds: float = _setting(
        0.0,
        "seconds",
        "Time within which a request gets its answer or a 503, as X-Request-Timeout; 0: no limit",
        ge=0,
        le=86_400,
    )
    cache_size: int = _setting(
        20_000, "texts", "Number of recent texts whose scores are cached; 0: none", ge=0, le=10**8
    )

    max_texts: int = _setting(256, "texts", "Largest number of texts in a request", ge=1, le=10**5)
    max_chars: int = _setting(10_000, "characters", "Longest text", ge=1, le=10**6)
    max_bytes: int = _setting(1_000_000, "bytes", "Largest request body", ge=100, le=10**9)
    max_concurrent_requests: int = _setting(
        1024, "requests", "Active requests of a worker; more get 429", ge=1, le=100_000
    )
    requests_per_minute: int = _setting(
        0, "requests", "Limit of each key or address, in a worker; 0: no limit", ge=0, le=10**7
    )
    body_seconds: float = _setting(
        10.0, "seconds", "Time within which a request body must arrive", gt=0, le=600
    )
    shutdown_grace_seconds: float = _setting(
        8.0, "seconds", "Time for accepted requests to finish after SIGTERM", gt=0, le=600
    )

    api_keys: Keys = _setting(
        (), "name:sha256:scopes, …", "Keys that may use the API; none: everybody may"
    )
    cors_origins: Origins = _setting(
        (), "origins, …", "Web origins whose pages may call the API; * is any"
    )
    trusted_proxies: Names = _setting(
        ("127.0.0.1",), "addresses, …", "Proxies whose X-Forwarded-For is trusted; * is any"
    )

    mongodb_uri: SecretStr | None = _setting(
        None, "mongodb://… or mongodb+srv://…", "MongoDB for the log; unset: only the outbox"
    )
    mongodb_ttl_days: int = _setting(
        0, "days", "How long MongoDB keeps predictions and feedback; 0: forever", ge=0, le=10_000
    )
    outbox: Path = _setting(
        Path("log/outbox.db"), "file", "SQLite file that stores predictions before a reply is sent"
    )
    outbox_mb: int = _setting(
        1024,
        "MB",
        "Size of the outbox; when full: 503, or without MONGODB_URI old rows are dropped",
        ge=1,
        le=10**6,
    )
    outbox_days: int = _setting(
        30,
        "days",
        "How long the outbox keeps rows without MONGODB_URI; 0: forever",
        ge=0,
        le=10_000,
    )
    store_text: Literal["full", "hash", "none"] = _setting(
        "full", "full, hash or none", "What the prediction log stores of a text"
    )

    prometheus_multiproc_dir: Path | None = _setting(
        None, "folder", "Shared metrics of several workers; unset: a temporary folder"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "debug, info, warning or error", "Level of the JSON log on standard error"
    )
    log_requests: bool = _setting(False, "true or false", "Log one line for each request")


def shipped(path: Path) -> Path:
    """Return where a file or folder is that the project ships: in a wheel, else in the checkout.

    `path` is relative to the checkout; a wheel has it inside of `serving/`.
    """
    installed = PACKAGE / path
    return installed if installed.exists() else PACKAGE.parent / path


def load_settings(**overrides: object) -> Settings:
    """Return the settings of the environment; `overrides` come before it.

    A configuration file that no setting names is looked for in the working directory first, then
    among the files that the project ships.

    Raises:
        SettingsError: a value cannot be used, or a setting has its name of version 0.1.
    """
    if old := sorted(RENAMED.keys() & os.environ.keys()):
        raise SettingsError("\n".join(f"{name}: renamed to {RENAMED[name]}" for name in old))
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
        return settings.model_copy(update=_shipped_files(settings))
    except ValidationError as error:
        values = {str(problem["loc"][0]): problem["input"] for problem in error.errors()}
    lines = []
    for name in sorted(values):
        shown = "a value that is not shown here" if name in SECRET else repr(values[name])
        lines.append(f"{name.upper()}: got {shown}, wanted {wanted(name)}")
    raise SettingsError("\n".join(lines))


def _shipped_files(settings: Settings) -> dict[str, Path]:
    """Return the shipped file of each setting that is unset and whose default is not here."""
    # One that was set is taken at its word: a wrong path must not choose another policy.
    defaults = {name: getattr(settings, name) for name in SHIPPED_FILES}
    return {
        name: shipped(path)
        for name, path in defaults.items()
        if name not in settings.model_fields_set and not path.exists()
    }


def load_config(path: Path, model: type[Config]) -> Config:
    """Return the content of a YAML file that a setting names.

    Raises:
        SettingsError: the file cannot be read, or a value in it cannot be used.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{path}: {key}: {first['msg']}") from None


def wanted(name: str) -> str:
    """Return a setting's type, range and unit in words."""
    annotation = Settings.model_fields[name].annotation
    type_name = TYPES.get(annotation if isinstance(annotation, type) else object, "")
    limits = value_range(name)
    return f"{type_name} {limits} ({unit(name)})" if limits else unit(name)


def unit(name: str) -> str:
    """Return a setting's unit, or the form of its value."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["unit"]) if isinstance(extra, Mapping) else ""


def value_range(name: str) -> str:
    """Return a setting's range in words; empty if it has none."""
    bounds = Settings.model_fields[name].metadata
    low = [
        f"from {b.ge}" if isinstance(b, Ge) else f"above {b.gt}"
        for b in bounds
        if isinstance(b, Ge | Gt)
    ]
    high = [f"to {b.le}" for b in bounds if isinstance(b, Le)]
    return " ".join([*low, *high])


def table() -> str:
    """Return all settings as a Markdown table."""
    rows = ["| setting | default | unit, range | what it does |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = field.default
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        shown = "" if shown is None else str(shown).lower() if isinstance(value, bool) else shown
        limits = f"{unit(name)}, {value_range(name)}" if value_range(name) else unit(name)
        rows.append(f"| `{name.upper()}` | {shown} | {limits} | {field.description} |")
    return "\n".join(rows)
