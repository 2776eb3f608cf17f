"""`tweet-tagger map-thresholds`: which threshold here replaces one of Perspective's."""

from math import isnan
from pathlib import Path
from typing import Any

import click


@click.command("map-thresholds", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("csv", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False),
    help="Model bundle; default: $TAGGER_BUNDLE, else production, candidate or shipped.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1),
    multiple=True,
    help="One of Perspective's thresholds; repeat for several. Default: 0.5 to 0.9.",
)
def map_thresholds(csv: Path, bundle: Path | None, thresholds: tuple[float, ...]) -> None:
    """Compare this model with Perspective's scores in the file CSV.

    CSV has a column `text`, and TOXICITY or other attributes; $TAGGER_PERSPECTIVE names the file
    that defines them. The report has, for each of Perspective's thresholds, the one here that flags
    the same share of the comments, and how often both agree.
    """
    if any(isnan(threshold) for threshold in thresholds):
        raise click.UsageError("Invalid value for '--threshold': nan is no number from 0 to 1")
    from serving.bundle import Bundle, BundleError
    from serving.compat.perspective.thresholds import THRESHOLDS, ThresholdsError, report_file
    from serving.compat.perspective.translate import Attributes
    from serving.model_manager import bundle_folder
    from serving.settings import load_settings

    overrides: dict[str, Any] = {"bundle": bundle} if bundle else {}
    settings = load_settings(**overrides)
    table = Attributes.load(settings.perspective)
    folder = bundle_folder(settings)
    loaded = Bundle.load(folder)
    if problem := loaded.golden_problem():
        raise BundleError(f"{folder}: {problem}")
    try:
        click.echo(report_file(csv, loaded, table, thresholds or THRESHOLDS))
    except ThresholdsError as error:
        raise click.UsageError(str(error)) from None


commands = [map_thresholds]
