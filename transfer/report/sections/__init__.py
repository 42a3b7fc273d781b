"""The sections of an experiment's page: one module each, which returns `Markup`, or None if it has nothing to show."""
