"""Requests and replies of the API; FastAPI makes the OpenAPI document from them.

The operator's limits are not here: `Classifier.check_texts` applies them to every API, and
`openapi` writes them into the document.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = Literal["hate", "offensive", "neither"]
Attribute = Literal[
    "TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT"
]
# One Literal and no union: of a union, errors would name a member as the field.
Explainable = Literal[Label, Attribute]
Warning_ = Literal[
    "toxicity_near_boundary",
    "action_near_boundary",
    "language_not_supported",
    "truncated",
    "no_words",
]
Probability = Annotated[float, Field(ge=0, le=1)]
# The classifier refuses blank texts; this documents it.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})]


class Request(BaseModel):
    """Base of all requests: unknown fields are refused and values are not converted.

    `null` for a field that may be missing means that it is missing.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PredictRequest(Request):
    """Texts to classify."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": ["have a lovely day", "you absolute clown"]}]}
    )

    texts: Annotated[list[Text], Field(description="each is classified on its own")]
    do_not_store: Annotated[
        bool | None, Field(description="store neither text nor scores in the prediction log")
    ] = False


class Scores(BaseModel):
    """Calibrated probabilities; they sum to 1."""

    hate: Probability
    offensive: Probability
    neither: Probability


class Attributes(BaseModel):
    """Calibrated probabilities, each on its own: a text can have several attributes or none."""

    TOXICITY: Annotated[float, Field(ge=0, le=1, description="p(hate) + p(offensive)")]
    SEVERE_TOXICITY: Probability
    IDENTITY_ATTACK: Probability
    INSULT: Probability
    PROFANITY: Probability
    THREAT: Probability


class PredictionReply(BaseModel):
    """The prediction for one text."""

    id: Annotated[str, Field(description="for feedback, audit and erasure")]
    label: Label
    scores: Scores
    attributes: Attributes
    toxicity: Literal["none", "uncertain", "high", "strong"]
    action: Literal["allow", "review", "block"]
    language: Annotated[
        str, Field(description="ISO 639-1; en where the text is not surely in another language")
    ]
    truncated: Annotated[bool, Field(description="the model did not read the end of the text")]
    warnings: list[Warning_]


class ModelName(BaseModel):
    """The model that answered."""

    name: str
    version: str


class PredictReply(BaseModel):
    """The predictions for a request's texts, in their order."""

    id: Annotated[str, Field(description="id of the request")]
    model: ModelName
    policy: Annotated[str, Field(description="version of the policy")]
    predictions: list[PredictionReply]


class ExplainRequest(Request):
    """A text to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "you absolute clown"}]})

    text: Text
    label: Annotated[
        Explainable | None,
        Field(description="label or attribute to explain; default: the predicted label"),
    ] = None
    num_features: Annotated[
        int | None,
        Field(
            ge=1, le=500, description="number of distinct words to return, largest weights first"
        ),
    ] = 10
    num_samples: Annotated[
        int | None,
        Field(
            ge=16,
            le=5000,
            description="number of masked texts to score, where not all of them are; fewer where "
            "the text is long",
        ),
    ] = 1000
    seed: Annotated[int | None, Field(ge=0, lt=2**32, description="seed of the random sample")] = 0


class WordWeight(BaseModel):
    """One occurrence of a word."""

    word: str
    weight: Annotated[float, Field(description="above 0: speaks for what is explained")]
    begin: Annotated[int, Field(description="offset in characters (code points)")]
    end: Annotated[int, Field(description="offset of the character after it")]


class Part(BaseModel):
    """A part of a text."""

    begin: Annotated[int, Field(description="offset in characters (code points)")]
    end: Annotated[int, Field(description="offset of the character after it")]


class ExplainReply(BaseModel):
    """How much each word speaks for a label or an attribute."""

    label: Annotated[Explainable, Field(description="the label or the attribute")]
    words: list[WordWeight]
    r2: Annotated[float | None, Field(description="R² of the weights; null: the text has no words")]
    scores_used: int
    exact: Annotated[
        bool, Field(description="all masks were scored; the result does not depend on the seed")
    ]
    explained: Annotated[
        Part,
        Field(
            description="what was explained: all that the model reads, or of a long text "
            "the window that decides its scores"
        ),
    ]
    seed: int
    model: ModelName


class FeedbackRequest(Request):
    """The label that a person says is right."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prediction_id": "0" * 32, "label": "neither", "comment": "it quotes"}]
        }
    )

    prediction_id: Annotated[str, Field(min_length=1, max_length=64)]
    label: Annotated[Label, Field(description="the right label of the text")]
    comment: Annotated[
        str | None,
        Field(max_length=2000, description="a reason; stored in full, even if texts are not"),
    ] = None


class FeedbackReply(BaseModel):
    """The feedback is stored; the same feedback twice has one id."""

    id: str


class StoredPrediction(BaseModel):
    """A prediction as the log stores it; TAGGER_STORE_TEXT decides what is stored of the text."""

    id: str
    request_id: str
    ts: datetime
    text: str | None = None
    text_hash: Annotated[str | None, Field(description="SHA-256 of the text in UTF-8")] = None
    scores: Scores
    attributes: Annotated[
        Attributes | None, Field(description="missing in predictions of versions before 0.3")
    ] = None
    label: Label
    toxicity: Literal["none", "uncertain", "high", "strong"]
    action: Literal["allow", "review", "block"]
    language: Annotated[
        str | None, Field(description="missing in predictions of versions before 0.3")
    ] = None
    model_version: str
    policy_version: str
    latency_ms: float
    client: str | None
    api: str


class ModelReply(BaseModel):
    """The model that is being served."""

    manifest: Annotated[dict[str, object], Field(description="bundle.json")]
    policy: Annotated[dict[str, object], Field(description="policy.yaml")]
    card: Annotated[str | None, Field(description="MODEL_CARD.md")]
    metrics: Annotated[dict[str, object] | None, Field(description="metrics.json")]


class ReloadReply(BaseModel):
    """The model that answers from now on."""

    model: ModelName


class Problem(BaseModel):
    """The cause of an error."""

    type: str
    message: str
    field: str | None = None


class ErrorReply(BaseModel):
    """Every error has this shape."""

    error: Problem


class HealthReply(BaseModel):
    """Liveness or readiness."""

    status: Literal["ok", "degraded", "failing"]
    reason: str | None = None
