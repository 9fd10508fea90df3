"""From partials to verdicts, episodes and alerts: pure functions of the log."""
