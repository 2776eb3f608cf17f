"""What people read of the gates: reports/gates.md, for the pull request and the job's summary.

It judges nothing, and prints texts that are not ours only masked and as code.
"""

from collections.abc import Iterable

from training.gates import Report, Verdict, flips, refusals


def markdown(
    candidate: Report, production: Report | None, verdicts: list[Verdict], examples: int = 8
) -> str:
    """Return reports/gates.md: the word, its reasons, every gate, the suite and flipped rows."""
    refused = refusals(verdicts)
    against = f"production {production.version}" if production else "no production model"
    lines = [
        f"# Gates: {candidate.version} is {'refused' if refused else 'accepted'}",
        "",
        f"Candidate {candidate.version} against {against}, "
        f"{len(verdicts)} gates, {len(refused)} refused.",
        "",
        *(f"- **{verdict}**" for verdict in refused),
        *([""] if refused else []),
        *_table(
            ("gate", "found", "wanted", ""),
            (
                (v.gate, v.found, v.wanted, "ok" if v.passed else "**refused**")
                for v in verdicts
                if not (v.gate.startswith("behaviour: ") and v.gate[11:] in candidate.behaviour)
            ),
        ),
        "",
        "## Behaviour",
        *_table(
            ("capability", "passed", "floor", "production", "fails, for example"),
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
        ours, theirs = (r.corpora[candidate.reference] for r in (candidate, production))
        found = flips(ours, theirs)
        for what, rows in (("lost", found.lost), ("won", found.won)):
            lines += ["", f"## Rows of {candidate.reference} that were {what}: {len(rows)}"]
            shown = (
                tuple(
                    [ours.classes[of[at]] for of in (ours.truth, theirs.chosen, ours.chosen)]
                    + [_cell(ours.texts[at])]
                )
                for at in rows[:examples]
            )
            lines += _table(("annotators", "production", "candidate", "text"), shown)
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _cell(text: str, width: int = 90) -> str:
    """Return a text that can break neither a table nor a page it is put into."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "/")
    short = plain if len(plain) <= width else plain[: width - 1] + "…"
    return f"`{short}`" if short else ""
