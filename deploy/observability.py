"""Writes what is made from other files: Grafana's dashboards, and the rules for Kubernetes.

    python -m deploy.observability    writes grafana/dashboards/*.json, prometheusrule.yaml

A test makes them again and compares. A panel is one line below: title, unit, and its queries.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

DEPLOY = Path(__file__).resolve().parent
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
RULES = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
PROMETHEUS_RULE = DEPLOY / "kubernetes" / "overlays" / "production" / "prometheusrule.yaml"
MADE = "# Made from deploy/prometheus by `python -m deploy.observability`.\n"

WHERE = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
ROW_HEIGHT, WIDTH = 8, 24


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` maps the legend of each query to its PromQL.

    In it, `{}` after a metric stands for the dashboard's job and instances; `{x="y"}` adds to it.
    """

    title: str
    unit: str
    queries: dict[str, str]
    note: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    minimum: float | None = 0
    maximum: float | None = None


def rate(metric: str, by: str, matchers: str = "") -> str:
    """Return the summed rate of a counter."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}{RATE}))"


def quantiles(metric: str, matchers: str = "") -> dict[str, str]:
    """Return the median and two high percentiles of a histogram, in the histogram's unit."""
    buckets = f"sum by (le) (rate({metric}_bucket{{{matchers}}}{RATE}))"
    return {f"p{q:g}": f"histogram_quantile({q / 100:g}, {buckets})" for q in (50, 95, 99)}


def mean(metric: str, by: str = "") -> str:
    """Return the mean of a histogram's observations."""
    grouping = f" by ({by})" if by else ""
    parts = (f"sum{grouping} (rate({metric}_{part}{{}}{RATE}))" for part in ("sum", "count"))
    return " / ".join(parts)


def share(metric: str, matchers: str, whole: str = "") -> str:
    """Return the share of a counter's increase; 0, and not nothing, where no part was counted."""
    total = f"sum(rate({metric}{{{whole}}}{RATE}))"
    return f"(sum(rate({metric}{{{matchers}}}{RATE})) or 0 * {total}) / {total}"


API = 'route=~"/v1.*|/predict"'
SERVING = {
    "Requests": [
        Panel("Requests by route", "reqps", {"{{route}}": rate("tagger_requests_total", "route")}),
        Panel(
            "Requests by status", "reqps", {"{{status}}": rate("tagger_requests_total", "status")}
        ),
        Panel(
            "Errors and refusals",
            "percentunit",
            {
                "5xx": share("tagger_requests_total", f'{API},status=~"5.."', API),
                "429": share("tagger_requests_total", f'{API},status="429"', API),
            },
            "Of the requests to the API. The objective is 0.1 % of 5xx in 30 days.",
        ),
        Panel(
            "Refusals by reason",
            "reqps",
            {
                "{{kind}}": rate("tagger_refusals_total", "kind"),
                "client left": f"sum(rate(tagger_client_disconnects_total{{}}{RATE}))",
            },
            "`overloaded`: add capacity. `rate_limited`: one caller. `timeout` and "
            "`headers_too_large` also come from the HTTP parser, before any route.",
        ),
    ],
    "Latency": [
        Panel(
            "Duration of predictions",
            "s",
            quantiles("tagger_request_seconds", 'route=~"/v1/predict|/predict|/v1/moderations"'),
        ),
        Panel(
            "Median duration by route",
            "s",
            {
                "{{route}}": "histogram_quantile(0.5, sum by (route, le) "
                f"(rate(tagger_request_seconds_bucket{{{API}}}{RATE})))"
            },
        ),
        Panel(
            "Phases, mean",
            "s",
            {"{{phase}}": mean("tagger_phase_seconds", "phase")},
            "Where a prediction's time goes: tokenise, queue, infer (its batch), store.",
        ),
        Panel("Time in the queue", "s", quantiles("tagger_phase_seconds", 'phase="queue"')),
    ],
    "Load": [
        Panel(
            "Queue and active requests",
            "short",
            {
                "tokens in the queue": "sum(tagger_queue_tokens{})",
                "active requests": "sum(tagger_active_requests{})",
            },
        ),
        Panel(
            "Batches, mean",
            "short",
            {
                "texts": mean("tagger_batch_rows"),
                "tokens": mean("tagger_batch_tokens"),
            },
        ),
        Panel(
            "Batches and padding",
            "short",
            {
                "batches/s": f"sum(rate(tagger_batch_rows_count{{}}{RATE}))",
                "failed batches/s": f"sum(rate(tagger_failed_batches_total{{}}{RATE}))",
                "padding tokens/s": f"sum(rate(tagger_padding_tokens_total{{}}{RATE}))",
            },
        ),
        Panel(
            "Texts found in the cache",
            "percentunit",
            {"hits": share("tagger_cache_texts_total", 'outcome="hit"')},
            maximum=1,
        ),
        Panel(
            "Rate limits without Redis",
            "short",
            {
                "replicas": "sum(tagger_rate_limit_local{})",
                "requests/s": f"sum(rate(tagger_rate_limit_local_requests_total{{}}{RATE}))",
            },
            "Replicas that count by themselves because Redis is slow or gone.",
        ),
        Panel("Ready", "short", {"{{instance}}": "tagger_ready{}"}, maximum=1),
    ],
}
LOG = {
    "Outbox": [
        Panel(
            "Rows in the outbox",
            "short",
            {
                "{{instance}}": "tagger_outbox_rows{}",
                "{{instance}}: refused by MongoDB": "tagger_outbox_postponed_rows{}",
            },
        ),
        Panel(
            "Size of the outbox, of its limit",
            "percentunit",
            {"{{instance}}": "tagger_outbox_bytes{} / tagger_outbox_limit_bytes{}"},
            "When it is full: 503, or without MONGODB_URI the oldest rows go.",
            maximum=1,
        ),
        Panel(
            "Size of the outbox",
            "decbytes",
            {
                "{{instance}}": "tagger_outbox_bytes{}",
                "{{instance}}: limit": "tagger_outbox_limit_bytes{}",
            },
        ),
        Panel("Age of the oldest row", "s", {"{{instance}}": "tagger_outbox_age_seconds{}"}),
        Panel("Time to store", "s", quantiles("tagger_phase_seconds", 'phase="store"')),
        Panel("Can be written", "short", {"{{instance}}": "tagger_log_writable{}"}, maximum=1),
    ],
    "Relay to MongoDB": [
        Panel(
            "MongoDB answers", "short", {"{{instance}}": "tagger_archive_reachable{}"}, maximum=1
        ),
        Panel(
            "Since the relay's last turn",
            "s",
            {"{{instance}}": "time() - (tagger_relay_turn_timestamp_seconds{} > 0)"},
        ),
        Panel(
            "Rows confirmed",
            "rowsps",
            {"{{instance}}": rate("tagger_archive_sent_total", "instance")},
        ),
        Panel(
            "From a row to its confirmation", "s", {"{{instance}}": "tagger_archive_lag_seconds{}"}
        ),
        Panel(
            "Batches",
            "ops",
            {
                "confirmed": f"sum(rate(tagger_archive_flushes_total{{}}{RATE}))",
                "not confirmed": f"sum(rate(tagger_archive_failures_total{{}}{RATE}))",
                "rows refused": f"sum(rate(tagger_archive_refusals_total{{}}{RATE}))",
            },
        ),
    ],
    "Reviews": [
        Panel("Items that wait", "short", {"waiting": "max by (job) (tagger_review_waiting{})"}),
        Panel(
            "Reviews by label",
            "short",
            {"{{label}}": "sum by (label) (increase(tagger_reviews_total{}[1h]))"},
            "In an hour.",
            stacked=True,
        ),
        Panel(
            "Reviews by reason",
            "short",
            {"{{reason}}": "sum by (reason) (increase(tagger_reviews_total{}[1h]))"},
            "In an hour. `random` is the uniform share, which the estimates need.",
            stacked=True,
        ),
    ],
}
BOUNDS = ("value", "low", "high")


def estimate(figure: str) -> dict[str, str]:
    """Return an estimate of each label, with its bounds."""
    name = f"tagger_estimated_{figure}"
    return {
        f"{{{{label}}}}{'' if bound == 'value' else f' ({bound})'}": (
            f'max by (label) ({name}{{bound="{bound}"}})'
        )
        for bound in BOUNDS
    }


MODEL = {
    "Model": [
        Panel(
            "Served models",
            "short",
            {
                "": "max by (instance, name, version, policy, quantisation, data) "
                "(tagger_model_info{} == 1)"
            },
            kind="table",
        ),
        Panel(
            "Reloads",
            "short",
            {"{{outcome}}": "sum by (outcome) (increase(tagger_model_reloads_total{}[1h]))"},
            "In an hour. A refused model does not load, or does not reproduce its golden scores.",
        ),
        Panel(
            "Bundle source answers",
            "short",
            {"{{instance}}": "tagger_bundle_source_reachable{}"},
            maximum=1,
        ),
    ],
    "Predictions": [
        Panel(
            "Labels",
            "percentunit",
            {
                "{{label}}": rate("tagger_predictions_total", "label")
                + f" / ignoring(label) group_left sum(rate(tagger_predictions_total{{}}{RATE}))"
            },
            stacked=True,
            maximum=1,
        ),
        Panel(
            "Actions",
            "percentunit",
            {
                "{{action}}": rate("tagger_predictions_total", "action")
                + f" / ignoring(action) group_left sum(rate(tagger_predictions_total{{}}{RATE}))"
            },
            stacked=True,
            maximum=1,
        ),
        Panel("Texts by API", "short", {"{{api}}": rate("tagger_predictions_total", "api")}),
    ],
    "On real traffic": [
        Panel("Drift", "short", {"drift": "max by (job) (tagger_drift_detected{})"}, kind="stat"),
        Panel(
            "Columns that drifted",
            "percentunit",
            {"share": "max by (job) (tagger_drift_share{})"},
            maximum=1,
        ),
        Panel(
            "Since the last check",
            "s",
            {"age": "time() - max by (job) (tagger_drift_checked_timestamp_seconds{})"},
            kind="stat",
        ),
        Panel(
            "Precision, estimated",
            "percentunit",
            estimate("precision"),
            "From the random share of the reviews, with 95 % intervals.",
            maximum=1,
        ),
        Panel("Recall, estimated", "percentunit", estimate("recall"), maximum=1),
        Panel("Prevalence, estimated", "percentunit", estimate("prevalence"), maximum=1),
        Panel(
            "Random reviews behind the estimates",
            "short",
            {"reviews": "max by (job) (tagger_estimate_reviews{})"},
            kind="stat",
        ),
        Panel(
            "Agreement of reviewers",
            "short",
            {"Cohen's kappa": "max by (job) (tagger_review_agreement_kappa{})"},
            "From 0 (chance) to 1; nothing below two texts that two people reviewed.",
            minimum=None,
            maximum=1,
        ),
    ],
}


@dataclass(frozen=True)
class Board:
    """One dashboard: `rows` maps the title of each row to its panels."""

    uid: str
    title: str
    rows: dict[str, list[Panel]] = field(default_factory=dict)


BOARDS = (
    Board("tagger-serving", "Tweet Tagger: serving", SERVING),
    Board("tagger-log", "Tweet Tagger: log", LOG),
    Board("tagger-model", "Tweet Tagger: model", MODEL),
)
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def with_variables(query: str) -> str:
    """Return a query restricted to the dashboard's job and instances."""

    def restricted(match: re.Match[str]) -> str:
        return f"{match[1]}{{{WHERE}{',' if match[2] else ''}{match[2]}}}"

    return re.sub(r"(tagger_\w+)\{([^}]*)\}", restricted, query)


def build_panel(panel: Panel, position: models.GridPos) -> Any:
    """Return the builder of a panel."""
    if panel.kind == "table":
        builder: Any = table.Panel().show_header(True)
    elif panel.kind == "stat":
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        builder = stat.Panel().reduce_options(last)
    else:
        multi = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
        builder = (
            timeseries.Panel().tooltip(multi).legend(common.VizLegendOptions().show_legend(True))
        )
        builder = builder.fill_opacity(60 if panel.stacked else 10)
        if panel.stacked:
            normal = common.StackingConfig().mode(common_models.StackingMode.NORMAL)
            builder = builder.stacking(normal)
    if panel.minimum is not None:
        builder = builder.min(panel.minimum)
    if panel.maximum is not None:
        builder = builder.max(panel.maximum)
    builder = builder.title(panel.title).unit(panel.unit).datasource(SOURCE).grid_pos(position)
    builder = builder.description(panel.note) if panel.note else builder
    for letter, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(with_variables(query))
        target = target.legend_format(legend) if legend else target
        if panel.kind == "table":
            target = target.instant().format(prometheus_models.PromQueryFormat.TABLE)
        builder = builder.with_target(target)
    return builder


def build(board: Board) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["tweet-tagger"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .link(
            dashboard.DashboardLink("Tweet Tagger")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["tweet-tagger"])
            .as_dropdown(True)
            .keep_time(True)
        )
    )
    for name in ("job", "instance"):
        within = "tagger_ready" if name == "job" else 'tagger_ready{job=~"$job"}'
        builder = builder.with_variable(
            dashboard.QueryVariable(name)
            .datasource(SOURCE)
            .query(f"label_values({within}, {name})")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    top, ids = 0, itertools.count(1)
    for title, panels in board.rows.items():
        builder = builder.with_row(
            dashboard.Row(title).id(next(ids)).grid_pos(models.GridPos(h=1, w=WIDTH, x=0, y=top))
        )
        for panel, position in zip(panels, positions(len(panels), top + 1), strict=True):
            builder = builder.with_panel(build_panel(panel, position).id(next(ids)))
            top = position.y + ROW_HEIGHT
    content: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    return content


def positions(count: int, top: int) -> Iterator[models.GridPos]:
    """Return places for panels, three in a row; four, or two, where that fills the rows."""
    columns = 2 if count in {2, 4} else 3
    width = WIDTH // columns
    for i in range(count):
        row, column = divmod(i, columns)
        yield models.GridPos(h=ROW_HEIGHT, w=width, x=column * width, y=top + row * ROW_HEIGHT)


def prometheus_rule() -> dict[str, Any]:
    """Return the rules as a resource of the Prometheus operator."""
    groups = [
        group
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tweet-tagger"},
        "spec": {"groups": groups},
    }


def files() -> dict[Path, str]:
    """Return what is made: the content of each file."""
    made = {
        DASHBOARDS / f"{board.uid.removeprefix('tagger-')}.json": json.dumps(build(board), indent=1)
        + "\n"
        for board in BOARDS
    }
    rule = yaml.safe_dump(prometheus_rule(), sort_keys=False, width=110)
    return made | {PROMETHEUS_RULE: MADE + rule}


def main() -> None:
    """Write the files."""
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
