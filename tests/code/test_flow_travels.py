"""A served flow is sent to its own process by value; it must arrive whole and still know its form."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle

ARRIVED = """
import sys, cloudpickle  # as Prefect's own runner does with what a server's process sent it
flow = cloudpickle.loads(sys.stdin.buffer.read())
config = flow.validate_parameters({"config": {"generate": {"seeds": "2"}}})["config"]
assert config.generate.seeds == 2, config
try:
    flow.validate_parameters({"config": {"generate": {"seeds": 0}}})
except Exception as error:
    print(type(error).__name__)
"""


def test_the_nightly_flow_arrives_in_another_process_and_checks_its_form():
    from flows.nightly import nightly

    sent = cloudpickle.dumps(nightly)
    done = subprocess.run([sys.executable, "-c", ARRIVED], input=sent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-800:]
    assert done.stdout.decode().strip() == "ParameterTypeError"
