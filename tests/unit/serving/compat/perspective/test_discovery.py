from googleapiclient.discovery import build_from_document

from serving.compat.perspective.discovery import MESSAGES, document, message_schemas


def test_googles_client_can_use_the_document() -> None:
    client = build_from_document(document("http://here.example/"), developerKey="k")
    request = client.comments().analyze(body={"comment": {"text": "x"}})
    assert request.uri == "http://here.example/v1alpha1/comments:analyze?key=k&alt=json"
    assert client.comments().suggestscore(body={}).method == "POST"
    client.close()


def test_the_document_has_the_fields_of_every_message() -> None:
    generated = message_schemas()
    for message in MESSAGES:
        aliases = {field.alias for field in message.model_fields.values()}
        assert set(generated[message.__name__]["properties"]) == aliases
    assert set(generated) >= {"TextEntry", "Context", "SpanScore", "Score"}


def test_types_have_googles_form() -> None:
    generated = {name: schema["properties"] for name, schema in message_schemas().items()}
    assert generated["TextEntry"] == {
        "text": {"type": "string"},
        "type": {"type": "string", "enum": ["TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"]},
    }
    assert generated["SpanScore"] == {
        "begin": {"type": "integer", "format": "int32"},
        "end": {"type": "integer", "format": "int32"},
        "score": {"$ref": "Score"},
    }
    assert generated["AnalyzeCommentResponse"] == {
        "attributeScores": {"type": "object", "additionalProperties": {"$ref": "AttributeScores"}},
        "languages": {"type": "array", "items": {"type": "string"}},
        "detectedLanguages": {"type": "array", "items": {"type": "string"}},
        "clientToken": {"type": "string"},
    }
    assert "null" not in str(generated)
