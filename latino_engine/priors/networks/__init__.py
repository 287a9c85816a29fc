"""The architectures that prior.json may name."""
