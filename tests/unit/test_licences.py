import io
import json
import sys

import pytest

from deploy import licences


@pytest.mark.parametrize(
    "name",
    [
        "MIT",
        "Apache-2.0 OR BSD-2-Clause",
        "MPL-2.0 AND (Apache-2.0 OR MIT)",
        "Apache Software License; MIT License",
        "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        "MIT OR GPL-3.0-only",
    ],
)
def test_allowed_licences(name: str) -> None:
    assert licences.allowed(name)


@pytest.mark.parametrize(
    "name",
    [
        "UNKNOWN",
        "",
        "GPL-3.0-only",
        "GNU Affero General Public License v3",
        "LGPL-2.1-or-later",
        "MIT AND GPL-3.0-only",
        "MIT License; GNU General Public License (GPL)",
        "MIT AND (AGPL-3.0-only OR SSPL-1.0)",
        "CC-BY-NC-4.0",
    ],
)
def test_licences_that_are_not_allowed(name: str) -> None:
    assert not licences.allowed(name)


def test_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"Name": "strict", "Version": "1.0", "License": "AGPL-3.0-only"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([row])))
    with pytest.raises(SystemExit, match=r"strict 1\.0: AGPL-3\.0-only"):
        licences.main()
    monkeypatch.setattr(sys, "stdin", io.StringIO("[]"))
    with pytest.raises(SystemExit, match="got no packages"):
        licences.main()
