"""`driftline validate` and what it is made of: raw records in; valid records, blocks and dead letters out."""
