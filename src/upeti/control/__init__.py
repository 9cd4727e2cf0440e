"""What stands beside the data plane: configuration, state, the keeper and the supervisor."""
