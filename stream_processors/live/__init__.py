"""The model on the stream: scores, outcomes, loss."""
