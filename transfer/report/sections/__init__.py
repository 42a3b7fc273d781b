"""Makes the sections of an experiment's page: each module returns `Markup`, or None if it has nothing to show."""
