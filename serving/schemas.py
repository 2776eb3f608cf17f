"""What stands in requests and replies: the OpenAPI document is made of these.

The operator's limits are not here but in `Service.answer`, which holds for every door; `app` writes
them into the document.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = Literal["hate", "offensive", "neither"]
Warning_ = Literal["toxicity_near_boundary", "action_near_boundary", "truncated", "no_words"]
Probability = Annotated[float, Field(ge=0, le=1)]
# What is refused as blank in code is said to the document's readers so.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})]


class Request(BaseModel):
    """The base of what callers send: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PredictRequest(Request):
    """Texts to judge."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": ["have a lovely day", "you absolute clown"]}]}
    )

    texts: Annotated[list[Text], Field(description="each is judged on its own")]
    do_not_store: Annotated[
        bool, Field(description="keep neither text nor scores in the prediction log")
    ] = False


class Scores(BaseModel):
    """Calibrated probabilities; they sum to 1."""

    hate: Probability
    offensive: Probability
    neither: Probability


class PredictionReply(BaseModel):
    """What is said of one text."""

    id: Annotated[str, Field(description="to give feedback on, to read and to delete")]
    label: Label
    scores: Scores
    toxicity: Literal["none", "uncertain", "high", "strong"]
    action: Literal["allow", "review", "block"]
    truncated: Annotated[bool, Field(description="the model did not see the text's end")]
    warnings: list[Warning_]


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: str


class PredictReply(BaseModel):
    """What is said of a request's texts, in their order."""

    id: Annotated[str, Field(description="the request's id")]
    model: ModelName
    policy: Annotated[str, Field(description="the version of the policy")]
    predictions: list[PredictionReply]


class ExplainRequest(Request):
    """A text to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "you absolute clown"}]})

    text: Text
    label: Annotated[
        Label | None, Field(description="whose probability is explained; none: the text's own")
    ] = None
    num_features: Annotated[
        int, Field(ge=1, le=500, description="distinct words to name, the heaviest first")
    ] = 10
    num_samples: Annotated[
        int, Field(ge=16, le=5000, description="masked texts to score, unless all are few")
    ] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the sample")] = 0


class WordWeight(BaseModel):
    """One occurrence of a word."""

    word: str
    weight: Annotated[float, Field(description="over 0: speaks for the label")]
    begin: Annotated[int, Field(description="offset in characters (code points)")]
    end: Annotated[int, Field(description="offset of what follows")]


class ExplainReply(BaseModel):
    """How much each word speaks for a label."""

    label: Label
    words: list[WordWeight]
    r2: Annotated[
        float | None, Field(description="how well the weights explain; null: no word to weigh")
    ]
    scores_used: int
    exact: Annotated[bool, Field(description="all masks were scored; the seed plays no part")]
    seed: int
    model: ModelName


class FeedbackRequest(Request):
    """What a person says of a prediction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prediction_id": "0" * 32, "label": "neither", "comment": "it quotes"}]
        }
    )

    prediction_id: Annotated[str, Field(min_length=1, max_length=64)]
    label: Annotated[Label, Field(description="what the text is")]
    comment: Annotated[
        str | None, Field(max_length=2000, description="why; kept as it is, whatever LOG_TEXT says")
    ] = None


class FeedbackReply(BaseModel):
    """The judgement is kept; the same one twice has one id."""

    id: str


class StoredPrediction(BaseModel):
    """A prediction as the log keeps it; of the text what LOG_TEXT lets it keep."""

    id: str
    request_id: str
    ts: datetime
    text: str | None = None
    text_hash: Annotated[str | None, Field(description="SHA-256 of the text in UTF-8")] = None
    scores: Scores
    label: Label
    toxicity: Literal["none", "uncertain", "high", "strong"]
    action: Literal["allow", "review", "block"]
    model_version: str
    policy_version: str
    latency_ms: float
    client: str | None
    door: str


class ModelReply(BaseModel):
    """What is being served."""

    manifest: Annotated[dict[str, object], Field(description="bundle.json")]
    policy: Annotated[dict[str, object], Field(description="policy.yaml")]
    card: Annotated[str | None, Field(description="MODEL_CARD.md")]
    metrics: Annotated[dict[str, object] | None, Field(description="metrics.json")]


class ReloadReply(BaseModel):
    """What answers from now on."""

    model: ModelName


class Problem(BaseModel):
    """What is wrong."""

    type: str
    message: str
    field: str | None = None


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error: Problem


class HealthReply(BaseModel):
    """Whether it lives, or is ready."""

    status: Literal["ok", "degraded", "failing"]
    reason: str | None = None
