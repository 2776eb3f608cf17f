import pytest

from serving.compat.perspective.fields import FieldMask
from serving.errors import ServiceError

REPLY = {"a": {"b": {"c": 1, "d": 2}, "e": {"c": 3}}, "list": [{"x": 1, "y": 2}], "t": "token"}


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (None, REPLY),
        ("", REPLY),
        ("*", REPLY),
        ("t", {"t": "token"}),
        ("a/b/c,t", {"a": {"b": {"c": 1}}, "t": "token"}),
        ("a.b.c", {"a": {"b": {"c": 1}}}),
        ("a(b(d), e)", {"a": {"b": {"d": 2}, "e": {"c": 3}}}),
        ("a/*/c", {"a": {"b": {"c": 1}, "e": {"c": 3}}}),
        ("list/x", {"list": [{"x": 1}]}),
        ("list(y)", {"list": [{"y": 2}]}),
        ("unknown", {}),
    ],
)
def test_a_mask_selects_fields(mask: str | None, wanted: object) -> None:
    assert FieldMask(mask).select(REPLY) == wanted


@pytest.mark.parametrize(
    "mask", ["a(", "a)", "(", ",", "a,", "/a", "a//b", "a b=c", "a/" * 20 + "b", "a" * 3000]
)
def test_what_is_no_mask_is_refused(mask: str) -> None:
    with pytest.raises(ServiceError, match="not a field mask"):
        FieldMask(mask)
