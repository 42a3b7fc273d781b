"""Runs trials: several seeds of one config with their mean and spread, and experiments made of such rows."""
