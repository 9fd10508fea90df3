"""What a closed window says beside its reference, for people."""
