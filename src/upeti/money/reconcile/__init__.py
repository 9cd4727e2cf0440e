"""Reconciliation: what a provider bills against what Upeti recorded, every difference named.

From file to report: ``detect`` finds out what a file is; ``azure``, ``openai``, ``anthropic`` and ``calls`` read it into
``lines``; ``match`` puts them beside our usage by day, channel, model and meter; ``classify`` names every difference;
``correct`` makes the corrections of estimated costs; ``report`` writes it all down.
"""
