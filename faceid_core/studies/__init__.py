"""Studies: one question about the method each, a run per variant on the same people, paired figures for an answer."""
