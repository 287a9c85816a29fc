"""Build entry point; everything that is known beforehand stands in pyproject.toml."""

from setuptools import setup

setup()
