"""The truth: a hash-chained record of what happened, and what is read out of it. Has no imports."""
