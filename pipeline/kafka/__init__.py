"""Events from Kafka into the event log, exactly once."""
