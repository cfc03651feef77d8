"""Lets ``python -m ddkit.cli`` be the command line."""

from ddkit.cli import main

main()
