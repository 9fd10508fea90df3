"""What the doors `monitor` and `river_adapter` stand on: drift without a stream."""
