"""Checks that the image contains permissive licences only: users may sell what they build on it.

    pip-licenses --python=… --from=mixed --format=json | python -m deploy.licences

A licence that ALLOWED does not list is an error, so somebody reads a new one before it ships. The
check reads the metadata of packages. Libraries inside a wheel (OpenBLAS: BSD; libgfortran: GPL with
the runtime exception) are covered by the licence files in that wheel.
"""

import json
import re
import sys

# All are permissive except MPL-2.0, which asks for the source of changed MPL files only.
ALLOWED = {
    "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0", "BSD", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT License", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Python Software Foundation License",
    "Zlib",
}  # fmt: skip


def allowed(licence: str) -> bool:
    """Return whether a licence, or an SPDX expression of them, is allowed.

    Every part of an AND must be allowed, and one part of an OR. Semicolons separate the parts of an
    AND.
    """
    if licence in ALLOWED:
        return True
    if inner := re.search(r"\(([^()]* (?:AND|OR) [^()]*)\)", licence):
        outcome = "MIT" if allowed(inner[1]) else "not allowed"
        return allowed(licence.replace(inner[0], outcome))
    parts = re.split(r" AND |; ", licence)
    if len(parts) > 1:
        return all(map(allowed, parts))
    choices = licence.split(" OR ")
    return len(choices) > 1 and any(map(allowed, choices))


def main() -> None:
    """Check the output of pip-licenses on standard input."""
    packages = json.load(sys.stdin)
    if not packages:
        sys.exit("error: got no packages, wanted those of the image")
    refused = [p for p in packages if not allowed(p["License"])]
    if refused:
        names = "; ".join(f"{p['Name']} {p['Version']}: {p['License']}" for p in refused)
        sys.exit(f"error: licence not in ALLOWED (deploy/licences.py): {names}")
    print(f"{len(packages)} packages, all licences allowed")


if __name__ == "__main__":
    main()
