"""From a prior to an engine: the export, the accuracy gate, the choice of a runtime, plans."""
