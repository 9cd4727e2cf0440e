"""Prices, costs, budgets: exact, in pico units."""
