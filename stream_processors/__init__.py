"""The processes between raw events and verdicts: validate, drift, score, evaluate, alerts."""
