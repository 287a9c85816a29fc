"""The command line: `main` is the entry point of `latino-engine`."""

from __future__ import annotations


def main() -> None:
    """Run the program on the arguments of this process."""
    from latino_engine.cli import program

    program.main()
