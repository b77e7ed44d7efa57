#!/bin/sh
# Runs a command now, and every night at 03:00 UTC; what fails is tried again the night after.
#   nightly.sh python -m pipeline.retrain ...
# /tmp/failed is there while the last run has failed.
set -u
child=
trap 'kill "$child" 2>/dev/null; exit 0' TERM INT
while :; do
  "$@" &
  child=$!
  if wait "$child"; then rm -f /tmp/failed; else touch /tmp/failed; fi
  seconds=$((86400 - ($(date -u +%s) + 75600) % 86400))
  echo "Next run in $seconds s."
  sleep "$seconds" &
  child=$!
  wait "$child"
done
