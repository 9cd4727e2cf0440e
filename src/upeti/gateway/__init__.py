"""The data plane: from a client's bytes to a provider's and back, metered, held and journaled."""
