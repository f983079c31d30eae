"""`python -m flows` is the faceid command."""

from flows.cli import main

main()
