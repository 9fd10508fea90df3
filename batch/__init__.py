"""The lake and what is learned from it: compact, quality, verify, train, control, models."""
