#!/bin/sh
# Preprocessing on Spark 3, through Beam's job server for it:
#   docker run --net=host apache/beam_spark3_job_server:2.77.0 --spark-master-url=spark://HOST:7077
# IMAGE is made from the Dockerfile beside this file. LOGS and EXAMPLES are paths that mean the
# same in every container.
set -eu
exec python -m pipeline.preprocess \
  --logs="${LOGS:?}" --examples="${EXAMPLES:?}" \
  --runner=PortableRunner --job_endpoint="${JOB_ENDPOINT:-localhost:8099}" \
  --environment_type=DOCKER --environment_config="${IMAGE:?the image of the workers}" \
  --setup_file="${SETUP_FILE:-./setup.py}" \
  "$@"
