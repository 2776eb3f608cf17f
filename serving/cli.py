"""The command line: `tweet-tagger serve`. (More commands are being added.)"""

import sys

import click

from serving.app import CANNOT_START
from serving.app import serve as run_server
from serving.settings import load_settings


@click.group()
def main() -> None:
    """Tell whether short texts are hate, offensive or neither."""


@main.command()
def serve() -> None:
    """Serve the API and the page until SIGTERM; settings come from the environment."""
    try:
        run_server(load_settings())
    except CANNOT_START as error:
        print(error, file=sys.stderr)
        sys.exit(2)
