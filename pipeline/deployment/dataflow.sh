#!/bin/sh
# Preprocessing on Google Cloud Dataflow, from a checkout, with pip install 'apache-beam[gcp]'.
# IMAGE is made from the Dockerfile beside this file. LOGS and EXAMPLES are paths that mean the
# same here and in every worker: read README.md first.
set -eu
exec python -m pipeline.preprocess \
  --logs="${LOGS:?}" --examples="${EXAMPLES:?}" \
  --runner=DataflowRunner --project="${PROJECT:?}" --region="${REGION:?}" \
  --job_name="${JOB_NAME:-watchnext-preprocess}" \
  --temp_location="${BUCKET:?gs://...}/temp" --staging_location="${BUCKET}/staging" \
  --sdk_container_image="${IMAGE:?the image of the workers}" \
  --setup_file="${SETUP_FILE:-./setup.py}" \
  --worker_machine_type="${MACHINE_TYPE:-n2-highmem-4}" \
  --max_num_workers="${MAX_WORKERS:-8}" --disk_size_gb="${DISK_GB:-100}" \
  "$@"
