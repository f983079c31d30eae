"""What production is set up with: linted, and as tight as its descriptions say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

from flows.serve import SERVER_SETTINGS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def test_cloudformation_is_clean():
    command = [str(Path(sys.executable).with_name("cfn-lint")), *map(str, (INFRA / "aws").glob("*.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


class Template(yaml.SafeLoader):
    """Reads CloudFormation's short tags as their text or list."""


def _untagged(loader: yaml.SafeLoader, _tag: str, node: yaml.Node):
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


Template.add_multi_constructor("!", _untagged)


def test_the_bucket_is_private_and_what_is_old_or_unfinished_goes_by_itself():
    template = yaml.load((INFRA / "aws" / "store-bucket.yaml").read_text(), Template)
    bucket = template["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    properties = bucket["Properties"]
    closed = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    assert properties["PublicAccessBlockConfiguration"] == dict.fromkeys(closed, True)
    assert properties["VersioningConfiguration"]["Status"] == "Enabled"
    assert "ServerSideEncryptionByDefault" in properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
    rules = properties["LifecycleConfiguration"]["Rules"]
    assert all(rule["Status"] == "Enabled" for rule in rules)
    done = {name for rule in rules for name in rule}
    assert {"NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"} < done
    # A rule that ends current objects would delete results, and Object Lock would keep erased people.
    assert "ExpirationInDays" not in done and not {"ObjectLockEnabled", "ObjectLockConfiguration"} & properties.keys()
    (statement,) = template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_run_policy_reaches_the_prefix_only():
    template = yaml.load((INFRA / "aws" / "store-policy.yaml").read_text(), Template)
    for resource in template["Resources"].values():
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            # A statement on a condition is [condition, statement, nothing].
            statement = statement[1] if isinstance(statement, list) else statement
            if statement["Effect"] == "Deny":
                continue
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert all("*" not in action for action in actions)
            resources = (
                statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            )
            scoped = all("${Prefix}" in name for name in resources)
            if statement["Sid"] == "ReadTheInput":
                assert actions == ["s3:GetObject"] and resources[0].endswith("/${InputPrefix}/*")
                continue
            if statement["Sid"] == "UseTheKey":
                assert set(actions) <= {"kms:Decrypt", "kms:GenerateDataKey"} and resources == ["KmsKeyArn"]
                continue
            listed = json.dumps(statement.get("Condition", {}))
            # S3 cannot confine the listing of unfinished uploads to a prefix.
            free = actions == ["s3:ListBucketMultipartUploads"]
            assert scoped or "${Prefix}" in listed or free, statement["Sid"]


def test_what_the_cluster_reads_is_what_the_policy_lets_it_read():
    policy = (INFRA / "aws" / "store-policy.yaml").read_text()
    given = dict(re.findall(r"(BucketName|Prefix|InputPrefix)=(\S+)", policy))
    maps = [each for each in yaml.safe_load_all((INFRA / "kubernetes" / "base.yaml").read_text()) if "data" in each]
    (run,) = (yaml.safe_load(each["data"]["run.yaml"]) for each in maps if "run.yaml" in each["data"])
    assert run["store"] == f"s3://{given['BucketName']}/{given['Prefix']}"
    for name in ("identities", "weights"):
        assert run[name].startswith(f"s3://{given['BucketName']}/{given['InputPrefix']}/"), name


def test_the_prefect_server_is_on_loopback_with_authentication_and_without_analytics():
    services = yaml.safe_load((INFRA / "prefect" / "compose.yaml").read_text())["services"]
    server = services["prefect"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_AUTH:?" in server["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert "ports" not in services["postgres"]


def test_every_prefect_setting_is_one_that_prefect_knows():
    """A misspelled variable is ignored without a word."""
    from prefect.settings.legacy import _get_valid_setting_names
    from prefect.settings.models.root import Settings

    services = yaml.safe_load((INFRA / "prefect" / "compose.yaml").read_text())["services"]
    lines = (INFRA / "prefect" / "client.env").read_text().splitlines()
    client = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    named = {name for name in [*client, *services["prefect"]["environment"]] if name.startswith("PREFECT_")}
    assert len(named) >= 10 and named <= _get_valid_setting_names(Settings)
    assert client["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"
    assert not [name for name in client if "AUTH" in name or "SECRET" in name]


def test_the_automation_for_lost_runs_knows_every_state_in_which_our_flows_end():
    """A run that ends in a state whose event it does not expect would be marked Crashed nine minutes later."""
    lost = yaml.safe_load((INFRA / "prefect" / "automations" / "lost-runs.yaml").read_text())
    expected = {event.removeprefix("prefect.flow-run.") for event in lost["trigger"]["expect"]}
    named = {"Completed", "Failed", "Crashed", "Cancelled"}
    for file in (*(ROOT / "flows").glob("*.py"), *(ROOT / "tasks").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
                "Completed",
                "Failed",
                "Crashed",
            }:
                named |= {each.value.value for each in node.keywords if each.arg == "name"}
    assert {"Cached", "CompletedWithFailures", "Stopped"} < named <= expected
    frequency = int(
        dict(
            line.split("=", 1)
            for line in (INFRA / "prefect" / "client.env").read_text().splitlines()
            if line.startswith("PREFECT_FLOWS_HEARTBEAT")
        )["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    )
    assert lost["trigger"]["within"] == 3 * frequency, "one heartbeat that is late is not a lost run"


def test_the_server_of_compose_has_the_settings_of_serves_own_and_keeps_its_leases():
    server = yaml.safe_load((INFRA / "prefect" / "compose.yaml").read_text())["services"]["prefect"]
    assert SERVER_SETTINGS.items() <= server["environment"].items()
    mounted = dict(each.split(":")[::-1] for each in server["volumes"])
    assert server["environment"]["PREFECT_HOME"] in mounted
