"""The Java side of running on Flink.

``flink/pom.xml`` names Beam's Flink runner; Flink's own job manager and task manager come with
it, so one class path starts them all.
"""

import pathlib

from pipeline.java.jars import Jars

HOME_VARIABLE = "WATCHNEXT_FLINK"
FLINK = Jars(
    name="Flink",
    pinned=pathlib.Path(__file__).parent,
    variable=HOME_VARIABLE,
    fetch_command="python -m pipeline.flink_cluster --fetch",
    megabytes=160,
    java="a Java 11 or 17 runtime",
)
