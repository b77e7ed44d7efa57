#!/bin/sh
# Preprocessing on a Flink cluster. Beside each task manager runs Beam's worker pool, one each:
#   python -m apache_beam.runners.worker.worker_pool_main --service_port=50000
# in an environment with this package: pip install '.[preprocessing]' in the checkout.
# LOGS and EXAMPLES are paths that mean the same on every machine.
set -eu
exec python -m pipeline.preprocess \
  --logs="${LOGS:?}" --examples="${EXAMPLES:?}" \
  --runner=FlinkRunner --flink_master="${FLINK_MASTER:?host:port of its REST interface}" \
  --flink_version="${FLINK_VERSION:-1.20}" \
  --environment_type=EXTERNAL --environment_config="${WORKER_POOL:-localhost:50000}" \
  --parallelism="${PARALLELISM:-2}" \
  "$@"
