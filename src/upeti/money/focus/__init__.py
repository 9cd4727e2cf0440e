"""FOCUS 1.4, the FinOps Open Cost and Usage Specification: what was spent as a file that other tools read."""
