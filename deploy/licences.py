"""Are all licences of what the image ships ones that let users sell, and keep, what they build?

    pip-licenses --python=… --from=mixed --format=json | python -m deploy.licences

A name that is not listed here refuses, so a new licence is read by somebody before it ships. It
reads what packages say of themselves; what a wheel carries inside (OpenBLAS: BSD; libgfortran: GPL
with the exception for programs that are compiled with it) is in the wheels' own licence files.
"""

import json
import re
import sys

# Permissive, but for MPL-2.0: changes of those files themselves must be shared, nothing else.
ALLOWED = {
    "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0", "BSD", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT License", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Python Software Foundation License",
    "Zlib",
}  # fmt: skip


def allowed(licence: str) -> bool:
    """Return whether a licence, or an SPDX expression of them, is allowed.

    All parts of AND must be; of OR, one. Several classifiers, with semicolons, are an AND.
    """
    if licence in ALLOWED:
        return True
    if inner := re.search(r"\(([^()]* (?:AND|OR) [^()]*)\)", licence):
        known = "MIT" if allowed(inner[1]) else "refused"
        return allowed(licence.replace(inner[0], known))
    parts = re.split(r" AND |; ", licence)
    if len(parts) > 1:
        return all(map(allowed, parts))
    either = licence.split(" OR ")
    return len(either) > 1 and any(map(allowed, either))


def main() -> None:
    """Read pip-licenses' JSON from standard input."""
    packages = json.load(sys.stdin)
    if not packages:
        sys.exit("error: no packages; wanted those of the image")
    refused = [p for p in packages if not allowed(p["License"])]
    if refused:
        named = "; ".join(f"{p['Name']} {p['Version']}: {p['License']}" for p in refused)
        sys.exit(f"error: licences that nobody has allowed: {named}")
    print(f"{len(packages)} packages, all of allowed licences")


if __name__ == "__main__":
    main()
