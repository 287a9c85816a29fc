"""Priors of others: checkpoints, folders and modules."""
