"""What every process shares: contract, block codec, topics, settings, Kafka clients, process table, local broker, command line."""
