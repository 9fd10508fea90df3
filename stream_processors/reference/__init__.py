"""What a feature was: cells, counts over them, the laws of its rhythm, and how it is fitted and kept."""
