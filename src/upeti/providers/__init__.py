"""Providers: how each vendor is addressed, what its models cost, and the model that runs on this machine."""
