"""`python -m latino_engine` is `latino-engine`."""

from latino_engine.cli import main

main()
