"""Trials: several seeds of one config, their mean and spread, and experiments made of such rows."""
