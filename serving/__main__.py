"""`python -m serving` is the same as `tweet-tagger`."""

from serving.cli import main

main()
