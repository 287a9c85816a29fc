"""How fast an engine is here, where the time goes, how far it is from the machine's limits."""
