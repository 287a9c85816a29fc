"""README and docs/benchmarks.md from the table of measurements: `make report`."""
