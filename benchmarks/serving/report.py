"""The report: figures as Markdown."""

import math
from collections.abc import Sequence
from statistics import median

from benchmarks.markdown import table
from benchmarks.serving.figures import (
    LOADS,
    Bare,
    Check,
    Explanations,
    Overload,
    Result,
    checks,
    medians,
)

PERCENTILES = ("p50", "p95", "p99")


def summary_table(bare: Bare, results: dict[str, Result]) -> str:
    """Return a row for each server."""
    rows: list[Sequence[object]] = [
        ["bare loop, no server", "static int8 bundle", "", "1.00",
         f"{median(each['p50'] for each in bare.single_ms):.1f}",
         f"{median(bare.cpu_s_per_1000):.1f}", f"{max(bare.peak_rss_mb):,.0f}", "",
         f"{median(bare.start_s):.1f}", ""]
    ]  # fmt: skip
    for each in results.values():
        if each.failed:
            rows.append([each.title, each.model, "did not run", *[""] * 7])
            continue
        load = {name: medians(measures) for name, measures in each.loads.items()}
        rows.append([
            each.title, each.model, f"{load['single64'].of_bare:.2f}",
            f"{load['lists'].of_bare:.2f}", f"{load['single1'].p50:.1f}",
            f"{load['single64'].cpu_s_per_1000:.1f}", f"{max(each.peak_rss_mb):,.0f}",
            f"{max(each.pss_mb):,.0f}", f"{median(each.start_s):.1f}", each.same_label,
        ])  # fmt: skip
    head = ["server", "model", "one tweet, 64 connections, of the bare loop",
            "lists of 32, of the bare loop", "p50 ms, 1 connection", "CPU s for 1,000 tweets",
            "peak RSS MB", "PSS MB", "ready s", "same label"]  # fmt: skip
    return table(head, rows)


def loads_table(results: dict[str, Result]) -> str:
    """Return a row for each load of each server."""
    rows = []
    for result in results.values():
        for load in LOADS:
            if load.name in result.loads:
                m = medians(result.loads[load.name])
                rows.append([
                    result.title, load.title, f"{m.requests_per_s:,.0f}", f"{m.tweets_per_s:,.0f}",
                    f"{m.p50:.2f}", f"{m.p95:.2f}", f"{m.p99:.2f}", f"{m.cpu_s_per_1000:.2f}",
                    f"{m.of_bare:.2f}", f"{m.refused:.1%}", f"{m.generator_cpu:.0%}",
                ])  # fmt: skip
    head = ["server", "load", "requests/s", "tweets/s", *(f"{p} ms" for p in PERCENTILES),
            "CPU s for 1,000 tweets", "of the bare loop", "refused", "generator's CPU"]  # fmt: skip
    return table(head, rows)


def spread(bare: Bare, results: dict[str, Result]) -> str:
    """Return the lowest and highest rate of the rounds, which show how stable the machine was."""
    rates = {"bare loop": bare.tweets_per_s}
    for each in results.values():
        if "single64" in each.loads:
            rates[each.title] = [m.tweets_per_s for m in each.loads["single64"]]
    return "; ".join(f"{name} {min(r):,.0f} to {max(r):,.0f}" for name, r in rates.items() if r)


def versions_list(results: dict[str, Result]) -> str:
    """Return a line for each server: its versions, or why it did not run."""
    return "\n".join(f"- {each.title}: {each.failed or each.versions}" for each in results.values())


def overload_list(load: Overload) -> str:
    """Return the overload's figures, a line each."""
    memory = load.memory_mb
    marks = [0, len(memory) // 4, len(memory) // 2, 3 * len(memory) // 4, len(memory) - 1]
    return "\n".join([
        f"- capacity {load.capacity:,.0f} requests/s; offered {load.offered:,.0f} requests/s for "
        f"{load.seconds} s",
        f"- accepted {load.accepted:,.0f}/s ({load.accepted / load.capacity:.0%} of the capacity; "
        f"in the worst second {load.least_second:,.0f}), p50 {load.p50:,.0f} ms, "
        f"p99 {load.p99:,.0f} ms from the moment the request was due",
        f"- refused with 429: {load.refused:,.0f}/s, p99 {load.refused_p99:,.0f} ms",
        f"- other statuses or no reply: {load.other / load.offered:.2%}",
        f"- sent late (p99): {load.late_p99:,.0f} ms; the load generator takes "
        f"{load.generator_cpu:.0%} of one core",
        "- memory (RSS) over the time: " + ", ".join(f"{memory[i]:,.0f}" for i in marks) + " MB",
    ])  # fmt: skip


def explanations_list(explanations: Explanations) -> str:
    """Return what explanations cost, a line each."""
    return "\n".join([
        f"- a tweet of 20 words explained with 1,000 samples: p50 {explanations.p50_s:.2f} s",
        f"- single tweets, one connection: p99 {explanations.quiet_p99_ms:.1f} ms, and "
        f"{explanations.beside_p99_ms:.1f} ms while two explanations run",
    ])  # fmt: skip


def checks_table(limits: Sequence[Check]) -> str:
    """Return each figure with its limit."""
    rows = [
        [c.what, _short(c.value), ("≥ " if c.at_least else "≤ ") + _short(c.limit),
         "pass" if c.passed else "**MISS**"]
        for c in limits
    ]  # fmt: skip
    return table(["figure", "measured", "limit", "result"], rows)


def _short(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 100 else f"{value:.3g}"


def document(
    setting: str,
    bare: Bare,
    results: dict[str, Result],
    overload: Overload | None,
    explanations: Explanations | None,
) -> str:
    """Return the whole report; `setting` says how the figures were measured."""
    parts = [
        setting,
        summary_table(bare, results),
        "`ready` is the time from the start of the process to its first successful reply. Peak RSS "
        "is a sum over the process tree; PSS, after the loads, counts shared pages once. `same "
        "label` compares the most probable label with the bundle's.",
    ]
    if explanations:
        parts += ["**Explanations**", explanations_list(explanations)]
    if overload:
        parts += ["**Overload**", overload_list(overload)]
    if limits := checks(results, overload, explanations):
        parts += ["**Limits**", checks_table(limits)]
    parts += [
        "**All loads**",
        loads_table(results),
        f"Tweets/s from round to round (64 connections): {spread(bare, results)}.",
        versions_list(results),
    ]
    return "\n\n".join(parts) + "\n"
