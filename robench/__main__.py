"""Lets `python -m robench` do what `robench` does."""

from robench.cli import main

main()
