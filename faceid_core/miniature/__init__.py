"""A small synthetic world with its own small models, so that everything runs, and means something, without downloads."""
