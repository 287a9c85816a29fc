"""What happens inside one call of `sample`."""
