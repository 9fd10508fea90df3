"""The sequential detectors: evidence, thresholds from the page budget, and the watch over themselves."""
