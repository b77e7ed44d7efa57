"""What a task manager runs to get a Python worker: Beam's container contract without a container.

    python -m pipeline.flink.worker --id=1-1 --provision_endpoint=HOST:PORT

Beam's own starter also installs what a job has staged; here the environment is there already,
with this package in it, and nothing is installed when a worker starts.
"""

import json
import os
import sys
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from google.protobuf import json_format, text_format


def environment(worker_id: str, provision_endpoint: str) -> dict[str, str]:
    """Asks the runner for a worker's settings, in the form of Beam's environment variables."""
    with grpc.insecure_channel(provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        info = service.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", worker_id)],
            timeout=60,
            wait_for_ready=True,
        ).info
    return {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
    }


def main(argv: Sequence[str]) -> None:
    """Runs one worker until the runner is done with it."""
    given = dict(argument.lstrip("-").split("=", 1) for argument in argv[1:])
    os.environ.update(environment(given["id"], given["provision_endpoint"]))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(argv[:1])


if __name__ == "__main__":
    main(sys.argv)
