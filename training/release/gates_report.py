"""The gates' report for people: reports/gates.md, for the pull request and the job's summary.

Texts of datasets are shown only normalised and as code.
"""

from collections.abc import Iterable

from training.release.gates import GateResult, Report, flips, refusals


def markdown(
    candidate: Report, production: Report | None, results: list[GateResult], examples: int = 8
) -> str:
    """Return the report: the decision, its reasons, every gate, the suite, and changed rows."""
    refused = refusals(results)
    against = f"production {production.version}" if production else "no production model"
    lines = [
        f"# Gates: {candidate.version} is {'refused' if refused else 'accepted'}",
        "",
        f"Candidate {candidate.version} against {against}: "
        f"{len(results)} gates, {len(refused)} failed.",
        "",
        *(f"- **{result}**" for result in refused),
        *([""] if refused else []),
        *_table(
            ("gate", "found", "wanted", ""),
            (
                (r.gate, r.found, r.wanted, "passed" if r.passed else "**failed**")
                for r in results
                if not (r.gate.startswith("behaviour: ") and r.gate[11:] in candidate.behaviour)
            ),
        ),
        "",
        "## Behaviour",
        *_table(
            ("capability", "passed", "floor", "production", "first failure"),
            (
                (
                    name,
                    f"{row.passed} of {row.texts} ({row.rate:.0%})",
                    f"{row.floor:.0%}" if row.rate >= row.floor else f"**{row.floor:.0%}**",
                    f"{production.behaviour[name].rate:.0%}" if production else "–",
                    _cell(row.failure),
                )
                for name, row in candidate.behaviour.items()
            ),
        ),
    ]
    if production is not None:
        ours, theirs = (r.sources[candidate.reference] for r in (candidate, production))
        changed = flips(ours, theirs)
        for outcome, rows in (("lost", changed.lost), ("won", changed.won)):
            lines += [
                "",
                f"## Rows of {candidate.reference} that the candidate {outcome}: {len(rows)}",
            ]
            shown = (
                tuple(
                    [ours.classes[by[i]] for by in (ours.truth, theirs.chosen, ours.chosen)]
                    + [_cell(ours.texts[i])]
                )
                for i in rows[:examples]
            )
            lines += _table(("annotators", "production", "candidate", "text"), shown)
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _cell(text: str, width: int = 90) -> str:
    """Return a text as code that cannot break the table."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "/")
    short = plain if len(plain) <= width else plain[: width - 1] + "…"
    return f"`{short}`" if short else ""
