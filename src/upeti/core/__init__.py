"""Values that every other folder speaks: amounts, events, errors, configuration. No input or output."""
