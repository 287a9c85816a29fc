"""Samplers of deepinv on a prior, an operator and measurements of this package."""
