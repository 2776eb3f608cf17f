"""The report: figures as Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.figures import LOADS, Bare, Check, Explaining, Outcome, Overload, middle


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def loads_table(bare: Bare, outcomes: dict[str, Outcome]) -> str:
    """Return a row for each load of each server, the bare loop first."""
    single = {p: median(each[p] for each in bare.single_ms) for p in ("p50", "p95", "p99")}
    rows: list[Sequence[object]] = [
        ["bare loop", "batches of 32 of like length", "", f"{median(bare.tweets_per_s):,.0f}",
         "", "", "", f"{median(bare.cpu_s_per_1000):.2f}", "1.00", "", ""],
        ["bare loop", "one tweet", "", f"{1000 / single['p50']:,.0f}",
         *(f"{single[p]:.2f}" for p in ("p50", "p95", "p99")), "", "", "", ""],
    ]  # fmt: skip
    for outcome in outcomes.values():
        for load in LOADS:
            if load.name in outcome.loads:
                m = middle(outcome.loads[load.name])
                rows.append([
                    outcome.title, load.title, f"{m.requests_per_s:,.0f}", f"{m.tweets_per_s:,.0f}",
                    f"{m.p50:.2f}", f"{m.p95:.2f}", f"{m.p99:.2f}", f"{m.cpu_s_per_1000:.2f}",
                    f"{m.of_bare:.2f}", f"{m.refused:.1%}", f"{m.generator_cpu:.0%}",
                ])  # fmt: skip
    head = ["server", "load", "requests/s", "tweets/s", "p50 ms", "p95 ms", "p99 ms",
            "CPU s / 1,000 tweets", "of the bare loop", "refused", "generator's CPU"]  # fmt: skip
    return table(head, rows)


def servers_table(bare: Bare, outcomes: dict[str, Outcome]) -> str:
    """Return a row for each server."""
    rows: list[Sequence[object]] = [
        ["bare loop", "static int8 bundle", f"{median(bare.start_s):.1f}",
         f"{max(bare.peak_rss_mb):,.0f}", "", "", ""]
    ]  # fmt: skip
    for each in outcomes.values():
        if each.failed:
            rows.append([each.title, each.model, "did not run", "", "", "", each.versions])
            continue
        rows.append([
            each.title, each.model, f"{median(each.start_s):.1f}", f"{max(each.peak_rss_mb):,.0f}",
            f"{max(each.pss_mb):,.0f}", each.agreement, each.versions,
        ])  # fmt: skip
    head = ["server", "model", "start s", "peak RSS MB", "PSS MB", "same label", "versions"]
    return table(head, rows)


def spread(bare: Bare, outcomes: dict[str, Outcome]) -> str:
    """Return the lowest and highest rate of the rounds: what the medians are worth."""
    rates = {"bare loop": bare.tweets_per_s}
    for each in outcomes.values():
        if "single64" in each.loads:
            rates[each.title] = [m.tweets_per_s for m in each.loads["single64"]]
    return "; ".join(f"{name} {min(r):,.0f} to {max(r):,.0f}" for name, r in rates.items() if r)


def overload_text(load: Overload) -> str:
    """Return the overload's figures, a line each."""
    memory = load.memory_mb
    marks = [0, len(memory) // 4, len(memory) // 2, 3 * len(memory) // 4, len(memory) - 1]
    return "\n".join([
        f"- capacity {load.capacity:,.0f} requests/s; offered {load.offered:,.0f}/s",
        f"- accepted {load.accepted:,.0f}/s ({load.accepted / load.capacity:.0%} of capacity; in "
        f"its worst second {load.least_second:,.0f}), p50 {load.p50:,.0f} ms, "
        f"p99 {load.p99:,.0f} ms from the moment it was due",
        f"- refused with 429: {load.refused / load.offered:.1%} of the offered, "
        f"p99 {load.refused_p99:,.0f} ms; other ends: {load.other / load.offered:.2%}",
        f"- sent late (p99): {load.late_p99:,.0f} ms; generator's CPU: {load.generator_cpu:.0%}",
        "- memory (RSS) over the time: " + ", ".join(f"{memory[at]:,.0f}" for at in marks) + " MB",
    ])  # fmt: skip


def explaining_text(found: Explaining) -> str:
    """Return what explanations take, a line each."""
    return "\n".join([
        f"- a tweet of 20 words explained with 1,000 samples: p50 {found.p50_s:.2f} s",
        f"- single tweets, one connection: p99 {found.quiet_p99_ms:.1f} ms alone, "
        f"{found.beside_p99_ms:.1f} ms while two explanations run",
    ])  # fmt: skip


def checks_table(found: Sequence[Check]) -> str:
    """Return the bars with pass or MISS."""
    rows = [
        [c.what, _short(c.found), ("≥ " if c.at_least else "≤ ") + _short(c.bar),
         "pass" if c.passed else "**MISS**"]
        for c in found
    ]  # fmt: skip
    return table(["bar", "found", "wanted", ""], rows)


def _short(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the figures were taken with, in words."""

    when: str
    machine: str
    bundle: str
    texts: str
    rounds: int
    seconds: float  # a load
    overload_seconds: float
    overload_factor: int
    ceiling: str


def document(
    setting: Setting,
    bare: Bare,
    outcomes: dict[str, Outcome],
    overload: Overload | None,
    explaining: Explaining | None,
    found: Sequence[Check],
) -> str:
    """Return reports/bench.md."""
    parts = [
        "# Benchmark",
        f"{setting.when}, on {setting.machine}. Bundle {setting.bundle}; {setting.texts}. "
        f"{setting.rounds} rounds of {setting.seconds:g} s a load, one server at a time; medians, "
        "and ratios to the bare loop of the same round. Caches are off.",
    ]
    if found:
        parts += ["## The bars", checks_table(found)]
    parts += [
        "## Loads",
        loads_table(bare, outcomes),
        f"Tweets/s from round to round (64 connections): {spread(bare, outcomes)}.",
        f"The load generator against a server that does nothing: {setting.ceiling}. It shares the "
        "cores with the server; its part is in the last column.",
        "## Servers",
        servers_table(bare, outcomes),
        "Start is from the process's start to the first good answer. Peak RSS is the sum over the "
        "process tree; PSS, after the loads, counts shared pages once. `same label`: the most "
        "probable label, against the bundle's.",
    ]
    parts += [f"{each.title}: {each.failed}" for each in outcomes.values() if each.failed]
    if explaining:
        parts += ["## Explanations", explaining_text(explaining)]
    if overload:
        parts += [
            f"## {setting.overload_factor} times the capacity, {setting.overload_seconds:.0f} s",
            overload_text(overload),
        ]
    return "\n\n".join(parts) + "\n"
