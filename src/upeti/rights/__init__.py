"""What may be done with a call and its answer, by channel and purpose."""
