"""The settings: what an operator may change, read from the environment and from nowhere else.

`python -m serving.settings` prints the table that the README shows. A wrong value stops the start
with its key, what was found and what is wanted.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.keys import ApiKey

SECRET = {"api_keys", "mongodb_uri"}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class SettingsError(Exception):
    """The environment holds values that cannot be used; the text has a line for each."""


def _split(value: object) -> object:
    """Return the parts of a value that has commas or spaces between them."""
    return tuple(re.findall(r"[^,\s]+", value)) if isinstance(value, str) else value


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"https?://[^/\s]+", value):
        raise ValueError(value)
    return value


Several = (NoDecode, BeforeValidator(_split))
Names = Annotated[tuple[str, ...], *Several]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], *Several]
Keys = Annotated[tuple[Annotated[ApiKey, BeforeValidator(ApiKey.parse)], ...], *Several]


def _is(default: object, unit: str, description: str, **limits: float) -> Any:
    keywords: dict[str, Any] = {**limits, "json_schema_extra": {"unit": unit}}
    return Field(default, description=description, **keywords)


class Settings(BaseSettings):
    """One field a setting; its name in capitals is the environment's key."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = _is("127.0.0.1", "address", "where to listen")
    port: int = _is(8000, "port", "where to listen; 0 takes a free one", ge=0, le=65535)
    workers: int = _is(1, "processes", "that answer, each with a model of its own", ge=1, le=64)
    bundle: Path | None = _is(
        None, "folder", "the model; unset: models/production, else models/candidate"
    )
    watch_seconds: float = _is(
        2.0, "seconds", "between looks for a new bundle in that folder; 0: none", ge=0, le=86_400
    )
    policy: Path = _is(Path("configs/policy.yaml"), "file", "toxicity bands and actions")
    perspective: Path = _is(
        Path("configs/perspective.yaml"), "file", "Perspective's attributes in terms of our labels"
    )

    threads: int = _is(
        0, "threads", "that infer, in all workers; 0: what the container may use", ge=0, le=256
    )
    batch_tokens: int = _is(256, "tokens", "of a micro-batch, padding included", ge=1, le=10**6)
    queue_seconds: float = _is(0.3, "seconds", "who would wait longer gets 429", gt=0, le=60)
    cache_size: int = _is(
        20_000, "texts", "whose scores are kept for when they come again; 0: none", ge=0, le=10**8
    )

    max_texts: int = _is(256, "texts", "of a request", ge=1, le=100_000)
    max_chars: int = _is(10_000, "characters", "of a text", ge=1, le=10**6)
    max_bytes: int = _is(1_000_000, "bytes", "of a request's body", ge=100, le=10**9)
    max_requests: int = _is(
        1024, "requests", "at one time in a worker; more get 429", ge=1, le=100_000
    )
    requests_per_minute: int = _is(
        0, "requests", "of a key, else an address, in a worker; 0: no limit", ge=0, le=10**7
    )
    body_seconds: float = _is(10.0, "seconds", "that a body may take to come", gt=0, le=600)
    drain_seconds: float = _is(
        8.0, "seconds", "that accepted requests have to finish after SIGTERM", gt=0, le=600
    )

    api_keys: Keys = _is((), "name:sha256:rights, …", "who may ask; none: everybody may")
    cors_origins: Origins = _is((), "origins, …", "whose pages may call; * is any")
    trusted_proxies: Names = _is(
        ("127.0.0.1",), "addresses, …", "whose X-Forwarded-For is believed; * is any"
    )

    mongodb_uri: SecretStr | None = _is(
        None, "mongodb://… or mongodb+srv://…", "where predictions are kept; unset: in the outbox"
    )
    mongodb_ttl_days: int = _is(
        0, "days", "that MongoDB keeps predictions and feedback; 0: for ever", ge=0, le=10_000
    )
    outbox: Path = _is(
        Path("log/outbox.db"), "file", "where predictions are safe before a reply leaves"
    )
    outbox_mb: int = _is(
        1024,
        "MB",
        "of the outbox; full, it refuses, or without MONGODB_URI drops its oldest rows",
        ge=1,
        le=10**6,
    )
    outbox_days: int = _is(
        30,
        "days",
        "that the outbox keeps rows where there is no MONGODB_URI; 0: for ever",
        ge=0,
        le=10_000,
    )
    log_text: Literal["full", "hash", "none"] = _is(
        "full", "full, hash or none", "what the prediction log keeps of a text"
    )

    prometheus_multiproc_dir: Path | None = _is(
        None, "folder", "where several workers add up their metrics; unset: a temporary one"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _is(
        "info", "debug, info, warning or error", "of the JSON log on standard error"
    )
    log_requests: bool = _is(False, "true or false", "a line in the log for each request")


def load_settings() -> Settings:
    """Return the settings of this process's environment.

    Raises:
        SettingsError: a value cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = {str(problem["loc"][0]) for problem in error.errors()}
        found = {str(problem["loc"][0]): problem["input"] for problem in error.errors()}
    lines = []
    for name in sorted(wrong):
        shown = "a value that is not shown here" if name in SECRET else repr(found[name])
        lines.append(f"{name.upper()}: got {shown}, wanted {wanted(name)}")
    raise SettingsError("\n".join(lines))


def wanted(name: str) -> str:
    """Return a setting's type, range and unit in words."""
    field = Settings.model_fields[name]
    kind = KINDS.get(field.annotation if isinstance(field.annotation, type) else object, "")
    extent = span(name)
    if not extent:
        return unit(name)
    return f"{kind} {extent} ({unit(name)})"


def unit(name: str) -> str:
    """Return a setting's unit, or the form of its value."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["unit"]) if isinstance(extra, Mapping) else ""


def span(name: str) -> str:
    """Return a setting's range in words; nothing if it has none."""
    bounds = Settings.model_fields[name].metadata
    low = [
        f"from {b.ge}" if isinstance(b, Ge) else f"above {b.gt}"
        for b in bounds
        if isinstance(b, Ge | Gt)
    ]
    high = [f"to {b.le}" for b in bounds if isinstance(b, Le)]
    return " ".join([*low, *high])


def table() -> str:
    """Return the README's table of settings."""
    rows = ["| setting | default | unit, range | what |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = field.default
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        shown = "" if shown is None else str(shown).lower() if isinstance(value, bool) else shown
        extent = f"{unit(name)}, {span(name)}" if span(name) else unit(name)
        rows.append(f"| `{name.upper()}` | {shown} | {extent} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
