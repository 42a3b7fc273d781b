"""Two engines, one contract: `base` states it, `select` chooses, `d2` and `tv` fulfil it without knowing each other."""
