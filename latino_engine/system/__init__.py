"""This machine: what it is, its memory, its cache of files and its terminal."""
