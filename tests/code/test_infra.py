"""What production is set up with: linted, and as tight as its descriptions say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

INFRA = Path(__file__).parents[2] / "infra"


def test_cloudformation_is_clean():
    command = [str(Path(sys.executable).with_name("cfn-lint")), *map(str, (INFRA / "aws").glob("*.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_run_policy_reaches_the_prefix_only():
    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's short tags as their text."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))
    template = yaml.load((INFRA / "aws" / "store-policy.yaml").read_text(), Loader)
    for resource in template["Resources"].values():
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Deny":
                continue
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert all("*" not in action for action in actions)
            resources = (
                statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            )
            scoped = all("${Prefix}" in name for name in resources)
            assert scoped or "Condition" in statement, statement["Sid"]


def test_the_prefect_server_is_on_loopback_with_authentication_and_without_analytics():
    services = yaml.safe_load((INFRA / "prefect" / "compose.yaml").read_text())["services"]
    server = services["prefect"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_AUTH:?" in server["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert "ports" not in services["postgres"]
