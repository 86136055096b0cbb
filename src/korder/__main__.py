"""`python -m korder` is `korder`."""

from korder.cli.app import main

main()
