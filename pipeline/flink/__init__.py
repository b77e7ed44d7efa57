"""A Flink cluster on this machine: jars, processes, workers."""
