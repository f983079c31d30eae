"""Studies: one question about the method each, a night per variant on the same people, paired figures for an answer."""
