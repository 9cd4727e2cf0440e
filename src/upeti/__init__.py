"""Upeti: know the bill to the last digit, keep it under a limit that holds, and stay up when a provider cuts you off."""

__version__ = "0.1.0"
