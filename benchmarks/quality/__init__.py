"""Are the samples right: this engine, its ablations and its peers, scored on the same images."""
