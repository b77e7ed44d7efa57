"""A Flink cluster on this machine: jars, processes, workers.

Imports nothing of pipeline.
"""
