"""What writes events into Kafka: the seeded sales generator and the replay of files."""
