"""The checked content of configs/ and data/profile.yaml: unknown and wrong keys are errors."""

import re
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from training.errors import ConfigError
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES

PARAMS = Path("configs/params.yaml")
SOURCES = Path("configs/sources.yaml")
PROFILE = Path("data/profile.yaml")
_BOOL, _MERGE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge"

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Label = Literal["hate", "offensive", "neither"]
# GitHub serves a file of a repository at raw.githubusercontent.com/OWNER/NAME/COMMIT/PATH.
Url = Annotated[str, Field(pattern=r"(?i)^https?://[^/]+/.*\.(csv|tsv|jsonl|ndjson|parquet|txt)$")]
Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern=r"(?i)^[0-9a-f]{64}$")]
# A source's name is part of file names in data/raw/.
SOURCE_NAME = re.compile(r"\w[\w. -]*")
Attribute = Literal["SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT"]
ENVIRONMENT = re.compile(r"\$\{(\w+)\}")
MONGODB = re.compile(r"mongodb(\+srv)?://")
Probability = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrepareParams(_Section):
    """Sizes of the splits, and from which similarity two texts count as the same."""

    val_fraction: Share
    test_fraction: Share
    near_duplicate: Annotated[float, Field(gt=0.5, le=1)]
    max_rows: Annotated[int, Field(ge=0)]


class ValidateParams(_Section):
    """Limits that stop the pipeline, and those that warn."""

    min_rows: Count
    min_class_share: Share
    max_length: Count
    drift_share: Share
    surface_auc: Annotated[float, Field(gt=0.5, lt=1)]


class TrainParams(_Section):
    """Base weights, schedule and precision of the fine-tuning."""

    base: str
    layers: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=8, le=512)]
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    final_learning_rate: Annotated[float, Field(ge=0, lt=1)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    encoder_dropout: Annotated[float, Field(ge=0, lt=1)]
    attribute_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    class_weights: Annotated[
        tuple[float, ...], Field(min_length=len(LABELS), max_length=len(LABELS))
    ]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "bf16", "fp32"]
    threads: Annotated[int, Field(ge=0)]
    checkpoint_steps: Count
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class ExportParams(_Section):
    """How the bundle is made."""

    opset: Annotated[int, Field(ge=18)]
    calibration_rows: Count
    golden_rows: Count
    golden_tolerance: Share


class EvaluateParams(_Section):
    """Bootstrap resamples, and texts that are timed."""

    bootstrap: Annotated[int, Field(ge=100)]
    latency_rows: Count


class RegisterParams(_Section):
    """The name in MLflow's model registry."""

    model: str


class Hub(_Section):
    """A split of a dataset on the Hugging Face Hub, or in a local folder of the same layout.

    split: may be a part of one, such as train[:20000].
    revision: the commit; default: the newest.
    columns: new names of its columns, by their names on the Hub.
    """

    name: str
    config: str | None = None
    split: str
    revision: str | None = None
    columns: dict[str, str] = {}


class Public(_Section):
    """A file of a public repository at a fixed commit, and perhaps a parallel file of its labels.

    header: the names of the columns of a .csv without a header line.
    separator: of the columns of a .csv; default: the one that its header has.
    columns: new names of its columns, by their names in the public file.
    """

    url: Url
    sha256: Sha256
    label_url: Url | None = None
    label_sha256: Sha256 | None = None
    header: list[str] = []
    separator: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = None
    columns: dict[str, str] = {}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Public":
        if (self.label_url is None) != (self.label_sha256 is None):
            raise ValueError("got one of label_url and label_sha256, wanted both or neither")
        if self.suffix == ".txt" and (self.label_url is None or self.header or self.columns):
            raise ValueError("a .txt file needs label_url and has no columns")
        if (self.header or self.separator) and self.suffix not in {".csv", ".tsv"}:
            raise ValueError("only a .csv file can have a header or a separator")
        if len(set(self.header)) < len(self.header):
            raise ValueError("header: got a name twice, wanted different names")
        if self.url.lower().startswith("https://github.com/"):
            raise ValueError(
                "url: github.com has a page about the file; wanted "
                "https://raw.githubusercontent.com/OWNER/NAME/COMMIT/PATH"
            )
        return self

    @property
    def suffix(self) -> str:
        """The kind of file: .csv, .tsv, .jsonl, .parquet or .txt."""
        suffix = Path(self.url).suffix.lower()
        return ".jsonl" if suffix == ".ndjson" else suffix


class LabelRule(_Section):
    """The partial label of rows where a column reaches a value; without a column: of all rows."""

    column: str | None = None
    at_least: Annotated[float, Field(gt=0, le=1)] = 1.0
    labels: list[Label]


# The columns that `ingest` gives the rows of a log; rows by clients may have partial labels.
LOG_COLUMNS = {
    "labels": {
        "+".join(chosen): list(chosen)
        for size in range(1, len(LABELS))
        for chosen in combinations(LABELS, size)
    },
    "votes": {label: [f"{label}_votes"] for label in LABELS},
    "attributes": {name: name for name in LEARNED_ATTRIBUTES},
    "thresholds": False,  # the queue chose the rows: they have more doubtful ones than the traffic
}
LOG_KEYS = {"uri", "agreeing_clients", "max_client_share"}
NOT_OF_LOGS = {
    *("path", "label_path", "public", "hub", "text", "label", "votes", "labels", "attributes"),
    *("raters", "groups", "fillings", "twins"),
}


class Source(_Section):
    """One entry of sources.yaml: where a dataset is, and what its columns say of labels and
    attributes.

    uri: of a prediction log: `mongodb://…` without a password, the file of an outbox, or `${NAME}`
        for the content of an environment variable.
    """

    kind: Literal["file", "log"] = "file"
    uri: str = ""
    agreeing_clients: Count = 3
    max_client_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    use: Literal["split", "train", "external"] = "split"
    path: str | None = None
    label_path: str | None = None
    public: Public | None = None
    hub: Hub | None = None
    text: str = "text"
    label: str = "label"
    votes: dict[Label, Annotated[list[str], Field(min_length=1)]] = {}
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    max_rows: Annotated[int, Field(ge=0)] = 0
    passes: Count = 1
    thresholds: bool = True
    twins: bool = False
    shares_prior: Probability = 0.0
    labels: dict[str | int, list[Label]] | list[LabelRule]
    attributes: dict[Attribute, str | dict[str | int, Probability]] = {}
    raters: str | None = None
    groups: str | None = None
    fillings: Annotated[int, Field(ge=0)] = 0
    unpunctuated: Probability = 0.0

    @model_validator(mode="before")
    @classmethod
    def _has_the_columns_of_its_kind(cls, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        is_log = entry.get("kind") == "log"
        wrong = sorted((NOT_OF_LOGS if is_log else LOG_KEYS) & entry.keys())
        if wrong:
            problem = "a log has none" if is_log else "only a source with kind: log has one"
            raise ValueError(f"{wrong[0]}: {problem}")
        return LOG_COLUMNS | entry if is_log else entry

    @model_validator(mode="after")
    def _has_the_address_of_a_log(self) -> "Source":
        if self.kind == "file":
            return self
        if self.use == "external":
            raise ValueError("use: got 'external', wanted split or train for a log")
        _check_log_uri(self.uri)
        return self

    @model_validator(mode="after")
    def _has_an_origin(self) -> "Source":
        if self.kind == "log":
            return self
        if self.path is None and self.public is None and self.hub is None:
            raise ValueError("got neither path, public nor hub, wanted one of them")
        if not self.partial_labels:
            raise ValueError("labels: every one allows none of ours")
        if (self.groups is None) != (self.fillings == 0):
            raise ValueError("got one of groups and fillings, wanted both or neither")
        if isinstance(self.labels, dict):
            self._check_labels(self.labels)
        elif any(rule.column is None for rule in self.labels[:-1]):
            raise ValueError("labels: rules follow one without a column, which holds for all rows")
        return self

    def _check_labels(self, labels: dict[str | int, list[Label]]) -> None:
        if self.text == self.label:
            raise ValueError(f"text and label: got {self.text!r} twice, wanted two columns")
        for name, shares in self.attributes.items():
            for label in shares if isinstance(shares, dict) else ():
                if label not in labels:
                    raise ValueError(f"attributes: {name}: {label!r} is not one of labels")

    @property
    def partial_labels(self) -> list[list[Label]]:
        """The partial labels that its rows can have; of a log those in validation."""
        if self.kind == "log":
            return [["hate"], ["offensive"], ["neither"]]
        if isinstance(self.labels, dict):
            return [allowed for allowed in self.labels.values() if allowed]
        return [rule.labels for rule in self.labels if rule.labels]

    @property
    def has_single_labels(self) -> bool:
        """Whether every row has exactly one label, as a test of all three labels needs.

        A log's rows are never in test: the service may have seen which ones are.
        """
        return self.kind == "file" and all(len(allowed) == 1 for allowed in self.partial_labels)


def _check_log_uri(uri: str) -> None:
    """Raise ValueError if it cannot be the address of a log; it is not shown, but for its form."""
    forms = "mongodb://host[:port]/database, the path of an outbox, or ${NAME}"
    if not uri:
        raise ValueError(f"uri: missing; wanted {forms}")
    if ENVIRONMENT.fullmatch(uri):
        return
    address = uri.partition("://")[2] if MONGODB.match(uri) else ""
    if ":" in address.rpartition("@")[0]:
        raise ValueError(
            "uri: it has a password; wanted ${NAME}, with the address in that environment variable"
        )
    if "${" in uri or ("://" in uri and not address):
        raise ValueError(f"uri: got another form, wanted {forms}")


class Profile(_Section):
    """What `ingest` decided.

    profile: which overrides of params.yaml apply.
    data: whether the data is only the bundled sample.
    missing: the sources that are not used, because they could not be had.
    """

    profile: Literal["full", "quick", "sample"]
    data: Literal["sources", "sample"]
    missing: list[str] = []


Params = TypeVar("Params", bound=BaseModel)


def load_params(section: str, model: type[Params]) -> Params:
    """Return a section of params.yaml with the current profile's overrides applied."""
    content = _read(PARAMS)
    if not isinstance(content.get(section), dict):
        raise ConfigError(f"{PARAMS}: {section}: got {content.get(section)!r}, wanted a section")
    values = dict(content[section])
    profiles = values.pop("profiles", {})
    overrides = profiles.get(load_profile().profile, {}) if isinstance(profiles, dict) else profiles
    if not isinstance(overrides, dict):
        raise ConfigError(f"{PARAMS}: {section}.profiles: got {overrides!r}, wanted a mapping")
    return _check(model, values | overrides, f"{PARAMS}: {section}.")


def load_file(path: Path, model: type[Params]) -> Params:
    """Return a whole file under configs/, checked."""
    return _check(model, _read(path), f"{path}: ")


def load_sources(path: Path = SOURCES) -> dict[str, Source]:
    """Return the sources by name, in the file's order; at least one has `use: split`."""
    content = _read(path)
    for name in content:
        # data/raw/reference.parquet is the production model's.
        if not SOURCE_NAME.fullmatch(name) or name == "reference":
            wanted = "a name of letters, digits, _, -, dots and spaces, except reference"
            raise ConfigError(f"{path}: got source {name!r}, wanted {wanted}")
    sources = {name: _check(Source, entry, f"{path}: {name}.") for name, entry in content.items()}
    if not any(source.use == "split" for source in sources.values() if source.kind == "file"):
        raise ConfigError(f"{path}: no source has use: split; wanted at least one")
    # The first source is the reference, and of near-duplicates the first row is kept.
    is_log = [source.kind == "log" for source in sources.values()]
    if is_log != sorted(is_log):
        name = next(name for name, source in sources.items() if source.kind == "log")
        raise ConfigError(f"{path}: {name}: a log comes after all other sources; move it down")
    return sources


def load_profile() -> Profile:
    """Return the profile that `ingest` wrote; ConfigError before its first run."""
    return load_file(PROFILE, Profile)


class _Loader(yaml.SafeLoader):
    """Keys are texts as they are written, and differ; of booleans there are only true and false.

    A dataset's labels may be `yes` and `no`, `010`, or `null`; YAML 1.1 makes other values of them.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0] != _BOOL or first in "tTfF"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping's node; ComposerError if a key is there twice."""
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                key.tag = "tag:yaml.org,2002:str"
                if key.value in seen:
                    problem = f"{key.value!r} is there twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; run `make train`") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    # SafeLoader's ValueError: a date such as 2020-13-45.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {problem}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {content!r}, wanted a mapping")
    return content


def _check(model: type[Params], values: object, where: str) -> Params:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # Of the members of a union, and of an unknown key beside the one that it was meant for,
        # these say most.
        first = max(error.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
        # The members of a union have their types in the path, in brackets.
        key = ".".join(str(part) for part in first["loc"] if "[" not in str(part)) or "(whole)"
        got = "" if first["type"] == "missing" else f" got {first['input']!r};"
        if first["type"] == "value_error":  # one of ours, which says what it got
            place = where + ".".join(map(str, first["loc"]))
            raise ConfigError(f"{place.rstrip('. :')}: {first['ctx']['error']}") from None
        advice = ""
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            close = get_close_matches(str(first["loc"][0]), model.model_fields, n=1)
            advice = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{where}{key}:{got} {first['msg']}{advice}") from None
