"""The settings: what an operator may change, read from the environment and from nowhere else.

A variable is the setting's name in capitals after `TAGGER_`. The names that deployment platforms
set (`PLAIN`) also count without the prefix. So do, with a warning at the start, the names of
earlier versions: ignoring one could, for example, store texts that must not be stored. A name that
is not in capitals belongs to another program.

A setting may name a YAML file, which `load_config` reads. A wrong value stops the start; the
message has the key, the value found and the value wanted. `table` is the source of
docs/configuration.md.
"""

import difflib
import os
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.auth import ApiKey

SECRET = {
    "api_keys",
    "mlflow_tracking_password",
    "mlflow_tracking_token",
    "mlflow_tracking_uri",
    "mongodb_uri",
    "rate_limit_storage",
}
PACKAGE = Path(__file__).parent
SHIPPED_BUNDLE = Path("models/release")
# Settings whose default is a file that the project ships.
SHIPPED_FILES = ("policy", "perspective")
PREFIX = "TAGGER_"
# Names that deployment platforms set or that are usual: they also count without the prefix.
PLAIN = {
    "host",
    "port",
    "mongodb_uri",
    "log_level",
    "mlflow_tracking_uri",
    "mlflow_tracking_username",
    "mlflow_tracking_password",
    "mlflow_tracking_token",
}
# prometheus_client reads this variable itself, so it has no other name.
UNPREFIXED = {"prometheus_multiproc_dir"}
# Names of version 0.1.
RENAMED = {
    "DRAIN_SECONDS": "shutdown_grace_seconds",
    "LOG_TEXT": "store_text",
    "MAX_REQUESTS": "max_concurrent_requests",
    "QUEUE_SECONDS": "max_queue_seconds",
}
# Kubernetes sets TAGGER_PORT=tcp://… and more for each Service named `tagger`.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
SERVICE_LINK_NAME = re.compile(r"TAGGER_(SERVICE_|PORT_\d)")
REMOTE_BUNDLE = re.compile(r"(models|https?|s3):")
LEVEL_NAMES = {"trace": "debug", "warn": "warning", "fatal": "critical"}
DEFAULT_PORTS = {("http", ":80"), ("https", ":443")}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

Config = TypeVar("Config", bound=BaseModel)


class SettingsError(Exception):
    """A setting, or a file that it names, has unusable values; the text has a line for each."""


def _split(value: object) -> object:
    """Return the parts of a value that are separated by commas or spaces."""
    return tuple(re.findall(r"[^,\s]+", value)) if isinstance(value, str) else value


def _origin(value: str) -> str:
    """Return an origin as browsers send it: without the default port, in small ASCII letters.

    `*` may stand for any origin, for the port, for the whole host, or for what comes before the
    first dot of the host.
    """
    if value in {"*", "null", "file://"}:
        return value
    match = re.fullmatch(
        r"([a-z][a-z0-9+.-]*)://([^/\s?#@]+?)(:(?:\d+|\*))?/?", value, re.IGNORECASE
    )
    if not match:
        raise ValueError(value)
    scheme, host, port = match[1].lower(), match[2].lower(), match[3] or ""
    if "*" in re.sub(r"^\*(\.|$)", "", host):
        raise ValueError(value)
    if ":" in host or host[0] == "[":
        if host[0] + host[-1] != "[]":
            raise ValueError(value)
        host = f"[{IPv6Address(host[1:-1])}]"
    if not host.isascii():
        host = host.encode("idna").decode()
    if port not in {"", ":*"}:
        port = f":{_port(int(port[1:]))}"
    return f"{scheme}://{host}{'' if (scheme, port) in DEFAULT_PORTS else port}"


def _port(number: int) -> int:
    if not 0 < number <= 65535:
        raise ValueError(f"port {number}")
    return number


def origin_pattern(origins: tuple[str, ...]) -> str:
    """Return a regular expression that matches the whole of each origin in `cors_origins`."""
    parts = []
    for origin in origins:
        pattern = re.escape(origin)
        pattern = re.sub(r":\\\*$", r"(:\\d+)?", pattern)
        pattern = pattern.replace(r"://\*\.", r"://([^/:.]+\.)+")
        parts.append(re.sub(r"^\\\*$", ".*", pattern).replace(r"://\*", "://[^/:]+"))
    return "|".join(parts)


def _proxy(value: str) -> str:
    """Return an address or a network; a host name would never match."""
    if value == "*":
        return value
    return str(ip_network(value, strict=False) if "/" in value else ip_address(value))


def _public_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(value)
    # A wrong port is a ValueError too. Credentials would be in the discovery document.
    if parts.port == 0 or parts.username is not None or re.search(r"\s", value):
        raise ValueError(value)
    return value.rstrip("/")


def _some(value: object) -> object:
    """Refuse a value without a key, such as `,` or a blank, which would open the service."""
    if isinstance(value, str) and not _split(value):
        raise ValueError("no keys")
    return value


def _distinct(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    """Refuse a key that is there twice with other scopes or another name: only one would count."""
    if len({key.digest for key in keys}) < len(set(keys)):
        digests = [key.digest for key in keys]
        names = [key.name for key in keys if digests.count(key.digest) > 1]
        raise ValueError(f"the entries {' and '.join(names)} have the same digest")
    return keys


def _one_line(value: SecretStr) -> SecretStr:
    if re.search(r"[\s\x00-\x1f\x7f]", value.get_secret_value()):
        raise ValueError("a blank or a control character")
    return value


def _bundle(value: object) -> object:
    """Return an address as text, and anything else as a path, which would lose one of its `//`."""
    if not isinstance(value, str) or not (match := REMOTE_BUNDLE.match(value)):
        return Path(value) if isinstance(value, str) else value
    if match[1] == "models":
        is_valid = bool(re.fullmatch(r"models:/[^/@\s]+(@[^/@\s]+|/\d+)", value))
    else:
        parts = urlsplit(value)
        is_digest = re.fullmatch("(sha256=[0-9a-fA-F]{64})?", parts.fragment) is not None
        is_valid = bool(parts.hostname) and len(parts.path) > 1 and is_digest
    if not is_valid:
        raise ValueError(value)
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(_one_line(value).get_secret_value())
    try:
        has_port = parts.port != 0
    except ValueError:  # its text has what stands there, perhaps a part of the password
        has_port = False
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not has_port:
        raise ValueError("not an address of Redis")
    return value


def _small(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    return LEVEL_NAMES.get(value.lower(), value.lower()) if isinstance(value, str) else value


Several = (NoDecode, BeforeValidator(_split))
Proxies = Annotated[tuple[Annotated[str, AfterValidator(_proxy)], ...], *Several]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], *Several]
Keys = Annotated[
    tuple[Annotated[ApiKey, BeforeValidator(ApiKey.parse)], ...],
    *Several,
    BeforeValidator(_some),
    AfterValidator(_distinct),
]


def _setting(default: object, unit: str, description: str, **limits: float) -> Any:
    keywords: dict[str, Any] = {**limits, "json_schema_extra": {"unit": unit}}
    return Field(default, description=description, **keywords)


def variables(name: str) -> list[str]:
    """Return the environment variables of a setting; the first that is set counts."""
    upper = name.upper()
    if name in UNPREFIXED:
        return [upper]
    return [PREFIX + upper, upper, *(old for old, new in RENAMED.items() if new == name)]


class Settings(BaseSettings):
    """One field is one setting; `variables` has the names of its environment variables."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        # Environment variables have the names of `alias_generator`, arguments those of the fields.
        # The library would look for the latter in the environment too, after `env_prefix`: the name
        # of a variable cannot have that character.
        case_sensitive=True,
        env_prefix="=",
        validate_by_name=True,
        alias_generator=AliasGenerator(
            validation_alias=lambda name: AliasChoices(*variables(name))
        ),
    )

    host: str = _setting("127.0.0.1", "address", "Address to listen on")
    port: int = _setting(8000, "port", "Port to listen on; 0 takes a free one", ge=0, le=65535)
    workers: int = _setting(
        1, "processes", "Worker processes, each with its own copy of the model", ge=1, le=64
    )
    bundle: Annotated[Path | str | None, BeforeValidator(_bundle)] = _setting(
        None,
        "folder, models:/name@alias, models:/name/version, or https://…, http://… or s3://… of a "
        ".tar.gz or .zip, with #sha256=… or a .sha256 beside it",
        "Model bundle; unset: models/production, else models/candidate, else the shipped model",
    )
    bundle_cache: Path | None = _setting(
        None, "folder", "Where fetched bundles are kept; unset: bundles/ beside OUTBOX"
    )
    watch_seconds: float = _setting(
        2.0, "seconds", "Interval of the check for a new bundle; 0 turns it off", ge=0, le=86_400
    )
    mlflow_tracking_uri: Annotated[SecretStr, AfterValidator(_one_line)] | None = _setting(
        None, "https://… or http://…", "MLflow server, if BUNDLE is models:/…"
    )
    mlflow_tracking_username: str | None = _setting(None, "text", "User of the MLflow server")
    mlflow_tracking_password: Annotated[SecretStr, AfterValidator(_one_line)] | None = _setting(
        None, "text", "That user's password"
    )
    mlflow_tracking_token: Annotated[SecretStr, AfterValidator(_one_line)] | None = _setting(
        None, "text", "Bearer token for the MLflow server, if no user is set"
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
        0, "requests", "Limit of each key or address; 0: no limit", ge=0, le=10**7
    )
    rate_limit_storage: Annotated[SecretStr, AfterValidator(_redis_url)] | None = _setting(
        None,
        "redis://[[user]:password@]host[:port][/number] or rediss://… (TLS)",
        "Redis that counts REQUESTS_PER_MINUTE for all workers and replicas; unset: each worker "
        "counts its own",
    )
    body_seconds: float = _setting(
        10.0, "seconds", "Time within which a request body must arrive", gt=0, le=600
    )
    shutdown_delay_seconds: float = _setting(
        0.0,
        "seconds",
        "Time after SIGTERM in which requests are still accepted, while /readyz fails and replies "
        "close their connections; longer than a load balancer takes to notice",
        ge=0,
        le=600,
    )
    shutdown_grace_seconds: float = _setting(
        8.0, "seconds", "Time for accepted requests to finish after that", gt=0, le=600
    )

    api_keys: Keys = _setting(
        (), "name:sha256:scopes, …", "Keys that may use the API; none: everybody may"
    )
    cors_origins: Origins = _setting(
        (),
        "origins such as https://example.org, http://localhost:*, https://*.example.org, app://ours",
        "Web origins whose pages may call the API; * is any",
    )
    trusted_proxies: Proxies = _setting(
        ("127.0.0.1",),
        "addresses or networks, …",
        "Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted; * is any",
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = _setting(
        None,
        "https://host[:port][/path]",
        "Address that clients use, for the discovery document and OpenAPI; unset: the request's",
    )

    mongodb_uri: Annotated[SecretStr, AfterValidator(_one_line)] | None = _setting(
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
    store_text: Annotated[Literal["full", "hash", "none"], BeforeValidator(_small)] = _setting(
        "full", "full, hash or none", "What the prediction log stores of a text"
    )

    review_days: int = _setting(
        7, "days", "How far back the review queue looks for predictions", ge=1, le=90
    )
    review_random_share: float = _setting(
        0.05,
        "share",
        "Share of the review queue's items that are drawn at random from all predictions",
        ge=0,
        le=1,
    )
    review_second_share: float = _setting(
        0.1, "share", "Share of the reviewed predictions that get a second reviewer", ge=0, le=1
    )
    review_lease_seconds: int = _setting(
        300, "seconds", "How long a reviewer has an item to themselves", ge=1, le=86_400
    )

    prometheus_multiproc_dir: Path | None = _setting(
        None, "folder", "Shared metrics of several workers; unset: a temporary folder"
    )
    drift_report: Path = _setting(
        Path("log/drift/drift.json"),
        "file",
        "Report of `tweet-tagger drift`, which becomes metrics",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)
    ] = _setting(
        "info",
        "debug, info, warning, error or critical",
        "Level of the JSON log on standard error",
    )
    log_requests: bool = _setting(False, "true or false", "Log one line for each request")

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        """Remove what a secret that was read from a file has at its end: a line feed."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _expand(cls, value: object) -> object:
        """Replace `~`, which a shell does not do in an .env file."""
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:  # there is no such user
            raise ValueError(str(error)) from None


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
        SettingsError: a value cannot be used.
    """
    if _is_service_link() and "port" not in overrides:
        overrides["port"] = os.environ.get("PORT") or Settings.model_fields["port"].default
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
        return settings.model_copy(update=_shipped_files(settings))
    except ValidationError as error:
        # The place of an error is the variable, or the name of an override.
        problems = {str(problem["loc"][0]): problem for problem in error.errors()}
    fields = {new: name for name in Settings.model_fields for new in [name, *variables(name)]}
    lines = []
    for name, problem in sorted(
        ((fields[place], problem) for place, problem in problems.items()), key=itemgetter(0)
    ):
        shown = repr(problem["input"])
        if name in SECRET:
            reason = problem.get("ctx", {}).get("error")
            shown = f"a value that is not shown here{f' ({reason})' if reason else ''}"
        elif "//" in shown and (name == "bundle" or "@" in shown):  # a signature or a password
            shown = "a value that is not shown here"
        lines.append(f"{variable(name)}: got {shown}, wanted {wanted(name)}")
    raise SettingsError("\n".join(lines))


def variable(name: str) -> str:
    """Return the variable that a setting is read from: the first that is set, else the first."""
    names = variables(name)
    return next((each for each in names if os.environ.get(each)), names[0])


def _is_service_link() -> bool:
    return bool(SERVICE_LINK.match(os.environ.get("TAGGER_PORT", "")))


def environment_warnings() -> list[str]:
    """Return a sentence for each variable that an operator may understand otherwise than we do."""
    known = {each for name in Settings.model_fields for each in variables(name)}
    warnings = []
    if _is_service_link():
        warnings.append(
            "TAGGER_PORT is not used: Kubernetes sets it for a Service named tagger; "
            "enableServiceLinks: false ends that"
        )
    for name in Settings.model_fields:
        prefixed, *others = variables(name)
        for other in (each for each in others if os.environ.get(each)):
            if os.environ.get(prefixed):
                if os.environ[other] != os.environ[prefixed]:
                    warnings.append(f"{other} is not used: {prefixed} is set")
            elif name not in PLAIN or other in RENAMED:
                warnings.append(f"{other} is deprecated: its new name is {prefixed}")
    for other in sorted(os.environ.keys() - known):
        upper = other.upper()
        if upper.startswith(PREFIX) and not SERVICE_LINK_NAME.match(other):
            close = difflib.get_close_matches(upper, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"{other} is not a setting{hint}")
    return warnings


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
        names = variables(name)[: 2 if name in PLAIN else 1]
        label = " or ".join(f"`{each}`" for each in names)
        rows.append(f"| {label} | {shown} | {limits} | {field.description} |")
    return "\n".join(rows)
