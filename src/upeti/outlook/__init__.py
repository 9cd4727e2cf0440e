"""What may come: drills of a cut-off, and the way out of a provider."""
