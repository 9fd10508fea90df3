"""`driftline drift`, its Kafka edges, and the verbs that read what it said."""
