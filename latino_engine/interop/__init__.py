"""Bridges to other libraries of the field; none of them is imported before it is needed."""
