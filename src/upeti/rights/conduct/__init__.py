"""Whether a tenant uses what it buys to train a rival: statistics of its calls, and the life of a case. Pure."""
