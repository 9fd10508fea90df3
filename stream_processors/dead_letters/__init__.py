"""The records that broke the contract, and their way back."""
