"""Events from Kafka into the event log, exactly once; and a broker on this machine to try it.

Imports pipeline.java and layers below.
"""
