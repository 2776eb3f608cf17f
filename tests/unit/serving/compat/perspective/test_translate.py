from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.compat.perspective.discovery import document
from serving.compat.perspective.errors import TEXT, RefusedError, render_error
from serving.compat.perspective.schemas import AnalyzeRequest, SuggestRequest
from serving.compat.perspective.translate import Analysis, Attributes, Suggestion
from serving.errors import ErrorCode, MissingKeyError, ServiceError
from serving.settings import SettingsError

SCORES = {"hate": 0.1, "offensive": 0.2, "neither": 0.7}
TABLE = Attributes.load(Path(__file__).parents[5] / "configs" / "perspective.yaml")
OMITTING = TABLE.model_copy(update={"unsupported": "omit"})


def asking(text: str = "hi", **more: Any) -> AnalyzeRequest:
    body = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
    return AnalyzeRequest.model_validate(body | more)


def answer(body: AnalyzeRequest, table: Attributes = TABLE) -> dict[str, Any]:
    analysis = Analysis(body, table)
    spans = analysis.spans(99)
    return analysis.reply(SCORES, spans, [SCORES] * len(spans))


def refused(body: AnalyzeRequest, table: Attributes = TABLE) -> dict[str, Any]:
    with pytest.raises(RefusedError) as caught:
        answer(body, table)
    code, content = render_error(caught.value)
    assert code == content["error"]["code"] == 400
    assert content["error"]["status"] == "INVALID_ARGUMENT"
    (detail,) = content["error"]["details"]
    assert detail["@type"] == "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
    return {"message": content["error"]["message"], **detail}


def test_attributes_are_sums_of_our_probabilities() -> None:
    wanted = {"TOXICITY": 0.3, "IDENTITY_ATTACK": 0.1, "INSULT": 0.3, "PROFANITY": 0.2}
    reply = answer(asking(requestedAttributes=dict.fromkeys(wanted)))
    found = {name: row["summaryScore"] for name, row in reply["attributeScores"].items()}
    assert found == {name: {"value": v, "type": "PROBABILITY"} for name, v in wanted.items()}


def test_a_reply_has_perspectives_shape() -> None:
    reply = answer(asking("hi 😀", clientToken="t", languages=["en-GB"]))
    score = {"value": 0.3, "type": "PROBABILITY"}
    assert reply == {
        "attributeScores": {
            "TOXICITY": {
                "spanScores": [{"begin": 0, "end": 5, "score": score}],
                "summaryScore": score,
            }
        },
        "languages": ["en-GB"],
        "clientToken": "t",
    }


def test_spans_are_sentences_when_asked_for_and_count_in_utf16() -> None:
    spans = answer(asking("😀 hi. מה? bye", spanAnnotations=True))["attributeScores"]["TOXICITY"]
    assert [(row["begin"], row["end"]) for row in spans["spanScores"]] == [
        (0, 6),
        (7, 10),
        (11, 14),
    ]


def test_markup_is_not_scored_and_offsets_refer_to_the_request() -> None:
    body = asking(comment={"text": "<p>😀 i<b>di</b>ot.</p> Bye&#33;", "type": "HTML"})
    analysis = Analysis(body, TABLE)
    assert analysis.comment.text == "\n😀 idiot.\n Bye!"
    spans = analysis.comment.offsets(analysis.spans(9))
    assert spans == [(0, len("<p>😀 i<b>di</b>ot.</p> Bye&#33;") + 1)]


def test_scores_below_a_threshold_are_left_out() -> None:
    wishes = {"TOXICITY": {"scoreThreshold": 0.3}, "PROFANITY": {"scoreThreshold": 0.21}}
    assert list(answer(asking(requestedAttributes=wishes))["attributeScores"]) == ["TOXICITY"]
    analysis = Analysis(asking("a. b", spanAnnotations=True, requestedAttributes=wishes), TABLE)
    low = {"hate": 0.0, "offensive": 0.1, "neither": 0.9}
    attributes = analysis.reply(low, analysis.spans(9), [low, SCORES])["attributeScores"]
    assert [row["begin"] for row in attributes["TOXICITY"]["spanScores"]] == [3]
    assert "summaryScore" not in attributes["TOXICITY"]


def test_either_spelling_and_null_are_read_and_nothing_unknown() -> None:
    body = {"comment": {"text": "x"}, "requested_attributes": {"TOXICITY": None}, "context": None}
    assert "TOXICITY" in answer(AnalyzeRequest.model_validate(body))["attributeScores"]
    with pytest.raises(ValidationError, match="sentiment"):
        asking(sentiment=1)


@pytest.mark.parametrize(
    ("more", "reason", "message"),
    [
        ({"comment": {"text": ""}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": {"text": " \n"}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": None}, "COMMENT_EMPTY", "Comment must be non-empty."),
        (
            {"comment": {"text": "<br>", "type": "HTML"}},
            "COMMENT_EMPTY",
            "Comment must be non-empty.",
        ),
        ({"comment": {"text": "x", "type": "RTF"}}, "INVALID_REQUEST", "Unknown text type"),
        (
            {"requestedAttributes": {}},
            "NO_REQUESTED_ATTRIBUTES",
            "Missing requested_attributes",
        ),
        (
            {"requestedAttributes": {"THREAT": {}}},
            "INVALID_REQUEST",
            "Unknown requested attribute: THREAT",
        ),
        (
            {"requestedAttributes": {"TOXICITY": {"scoreType": "STD_DEV_SCORE"}}},
            "INVALID_REQUEST",
            "Requested score type STD_DEV_SCORE is not supported by attribute TOXICITY",
        ),
        (
            {"context": {"entries": [{}], "articleAndParentComment": {}}},
            "INVALID_REQUEST",
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
        ),
    ],
)
def test_what_perspective_refuses(more: dict[str, Any], reason: str, message: str) -> None:
    found = refused(asking(**more))
    assert (found["errorType"], found["message"]) == (reason, message)


def test_a_language_that_the_model_does_not_know() -> None:
    found = refused(asking(languages=["de", "fr"]))
    assert found["message"] == "Attribute TOXICITY does not support request languages: de, fr"
    assert found["errorType"] == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
    assert found["languageNotSupportedByAttributeError"] == {
        "requestedLanguages": ["de", "fr"],
        "attribute": "TOXICITY",
    }
    assert answer(asking(languages=["de", "en"]))["languages"] == ["de", "en"]


def test_an_unsupported_attribute_can_be_left_out() -> None:
    requested = {"THREAT": {}, "TOXICITY": {}}
    assert list(answer(asking(requestedAttributes=requested), OMITTING)["attributeScores"]) == [
        "TOXICITY"
    ]
    only = asking(requestedAttributes={"THREAT": {}})
    assert answer(only, OMITTING)["attributeScores"] == {}


def suggestion(scores: dict[str, float | None], table: Attributes = TABLE) -> Suggestion:
    scores_sent = {name: {"summaryScore": {"value": value}} for name, value in scores.items()}
    body = {"comment": {"text": "x"}, "attributeScores": scores_sent, "communityId": "/movies"}
    return Suggestion(SuggestRequest.model_validate(body), table)


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ({"TOXICITY": 0}, "neither"),
        ({"TOXICITY": 1}, "hate+offensive"),
        ({"TOXICITY": 1, "IDENTITY_ATTACK": 0.5}, "hate"),
        ({"TOXICITY": 0.9, "IDENTITY_ATTACK": 0.1}, "offensive"),
        ({"IDENTITY_ATTACK": 0}, "offensive+neither"),
    ],
)
def test_a_suggestion_names_every_label_that_it_allows(
    scores: dict[str, float | None], label: str
) -> None:
    assert suggestion(scores).label == label


def test_a_suggestion_keeps_its_scores_as_a_note() -> None:
    assert suggestion({"TOXICITY": 0.25}).note == "suggestscore in /movies: TOXICITY=0.25"
    body = {
        "comment": {"text": "x"},
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}},
    }
    made = Suggestion(SuggestRequest.model_validate(body | {"clientToken": "t"}), TABLE)
    assert made.reply() == {"clientToken": "t"}
    made = Suggestion(SuggestRequest.model_validate(body | {"languages": ["en"]}), TABLE)
    assert made.reply() == {"requestedLanguages": ["en"]}


@pytest.mark.parametrize(
    "scores",
    [{}, {"TOXICITY": None}, {"TOXICITY": 2}, {"TOXICITY": 0, "PROFANITY": 1}, {"THREAT": 1}],
)
def test_suggestions_that_say_nothing_are_refused(scores: dict[str, float | None]) -> None:
    with pytest.raises(RefusedError):
        suggestion(scores)
    with pytest.raises(RefusedError):
        suggestion(scores, OMITTING)


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (MissingKeyError({}), 403, "PERMISSION_DENIED", None),
        (ServiceError(ErrorCode.UNAUTHENTICATED, "x"), 400, "INVALID_ARGUMENT", "API_KEY_INVALID"),
        (ServiceError(ErrorCode.FORBIDDEN, "x"), 403, "PERMISSION_DENIED", None),
        (
            ServiceError(ErrorCode.RATE_LIMITED, "x"),
            429,
            "RESOURCE_EXHAUSTED",
            "RATE_LIMIT_EXCEEDED",
        ),
        (ServiceError(ErrorCode.OVERLOADED, "x"), 503, "UNAVAILABLE", None),
        (ServiceError(ErrorCode.UNAVAILABLE, "x"), 503, "UNAVAILABLE", None),
        (ServiceError(ErrorCode.INTERNAL, "x"), 500, "INTERNAL", None),
        (ServiceError(ErrorCode.TOO_LARGE, "The body…"), 400, "INVALID_ARGUMENT", None),
        (ServiceError(ErrorCode.BAD_REQUEST, "x"), 400, "INVALID_ARGUMENT", None),
    ],
)
def test_errors_are_told_as_google_tells_them(
    error: ServiceError, code: int, status: str, reason: str | None
) -> None:
    found, content = render_error(error)
    assert found == content["error"]["code"] == code
    assert content["error"]["status"] == status
    assert [row["reason"] for row in content["error"].get("details", [])] == [reason] * bool(reason)


def test_a_long_comment_and_a_wrong_value_have_their_details() -> None:
    (detail,) = render_error(ServiceError(ErrorCode.TOO_LARGE, "x", field=TEXT))[1]["error"][
        "details"
    ]
    assert detail["errorType"] == "COMMENT_TOO_LONG"
    (detail,) = render_error(ServiceError(ErrorCode.INVALID, "No.", field="languages"))[1]["error"][
        "details"
    ]
    assert detail["fieldViolations"] == [{"field": "languages", "description": "No."}]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("attributes: {TOXICITY: [rude]}", "attributes.TOXICITY"),
        ("attributes: {TOXICITY: []}", "attributes.TOXICITY"),
        ("attributes: {toxicity: [hate]}", "attributes.toxicity"),
        ("attributes: {}\nunsupported: ignore", "unsupported"),
        ("attributes: {}\nunsupported: omit\nlanguages: []", "languages"),
        ("{", "not YAML"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, content: str, key: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=key):
        Attributes.load(path)
    with pytest.raises(SettingsError, match="absent"):
        Attributes.load(tmp_path / "absent")


def test_the_discovery_document_has_the_schemas_of_all_messages() -> None:
    documented = document("http://here.example/")["schemas"]
    assert {"AnalyzeCommentRequest", "AnalyzeCommentResponse", "SpanScore", "Context"} <= set(
        documented
    )
    assert documented["AnalyzeCommentRequest"]["properties"] == {
        "comment": {"$ref": "TextEntry"},
        "context": {"$ref": "Context"},
        "languages": {"type": "array", "items": {"type": "string"}},
        "clientToken": {"type": "string"},
        "sessionId": {"type": "string"},
        "communityId": {"type": "string"},
        "requestedAttributes": {
            "type": "object", "additionalProperties": {"$ref": "AttributeParameters"},
        },
        "spanAnnotations": {"type": "boolean"},
        "doNotStore": {"type": "boolean"},
    }  # fmt: skip
    assert documented["SpanScore"]["properties"] == {
        "begin": {"type": "integer", "format": "int32"},
        "end": {"type": "integer", "format": "int32"},
        "score": {"$ref": "Score"},
    }
    assert documented["TextEntry"]["properties"]["type"]["enum"][-1] == "HTML"


def test_googles_client_can_use_the_discovery_document() -> None:
    from googleapiclient.discovery import build_from_document

    client = build_from_document(document("http://here.example/"), developerKey="k")
    request = client.comments().analyze(body={"comment": {"text": "x"}})
    assert request.uri == "http://here.example/v1alpha1/comments:analyze?key=k&alt=json"
    assert client.comments().suggestscore(body={}).method == "POST"
    client.close()
