"""The manifests: valid by the schemas of Kubernetes, KubeRay and Prefect, and true of this code."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from faceid_core.config.parse import parse_config
from faceid_core.store.secret import VARIABLE
from flows.cli import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
README = (FOLDER / "README.md").read_text()
DOCUMENTS = [doc for file in sorted(FOLDER.glob("*.yaml")) for doc in yaml.safe_load_all(file.read_text())]
OF_KUBERAY = [doc for doc in DOCUMENTS if doc["apiVersion"] == "ray.io/v1"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
# The oldest that KubeRay 1.5 is for, and the newest that the validator knows.
KUBERNETES = ["1.31", "1.37"]


def _one(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [doc for doc in DOCUMENTS if doc["kind"] == kind and name in ("", doc["metadata"].get("name"))]
    return found


def _job_template() -> dict[str, Any]:
    return json.loads((FOLDER / "base-job-template.json").read_text())


def _pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the manifests lead to: (whose, template)."""

    def below(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if "containers" in value.get("spec", {}):
                yield path, value
            for key, each in value.items():
                yield from below(each, f"{path}.{key}")
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from below(each, f"{path}.{number}")

    for doc in DOCUMENTS:
        yield from below(doc.get("spec", {}), f"{doc['kind']} {doc['metadata'].get('name')}")
    yield from below(_job_template()["job_configuration"]["job_manifest"], "base job template")


PODS = dict(_pod_templates())


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(version):
    for doc in DOCUMENTS:
        if doc not in OF_KUBERAY:
            kubernetes_validate.validate(doc, version, strict=True)
    for doc in OF_KUBERAY:
        for group in [doc["spec"].get("headGroupSpec"), *doc["spec"].get("workerGroupSpecs", [])]:
            if group:
                pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(group["template"])}
                kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("doc", OF_KUBERAY, ids=lambda doc: doc["kind"])
def test_kuberay_knows_every_field(doc):
    schemas = yaml.safe_load((ROOT / "tests" / "data" / "kuberay-fields.yaml").read_text())
    validator = jsonschema.Draft202012Validator({**schemas[doc["kind"]], "$defs": schemas["$defs"]})
    validator.validate(doc["spec"])
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**doc["spec"], "misspelled": 1})


def test_rays_autoscaler_reads_groups_that_start_from_zero():
    """By the code of Ray's autoscaler, which reads the RayCluster that it is to scale."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr(_one("RayCluster"))
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert {name: each["min_workers"] for name, each in types.items()} == dict.fromkeys(types, 0)
    assert types["gpu"]["resources"]["GPU"] == 1 and types["gpu"]["max_workers"] > 1
    # An actor with a GPU and the workers without one that stand beside it.
    assert types["gpu"]["resources"]["CPU"] >= 2
    assert not types["cpu"]["resources"].get("GPU") and types["cpu"]["resources"]["CPU"] >= 1
    assert config["idle_timeout_minutes"] == 5


def test_the_configuration_names_the_groups_of_the_cluster():
    """By the code of Ray's autoscaler on one side, and of the placement on the other."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    from tasks.placement import NodeShape, Request, Share, capacity, nodes_that_may_come

    types = _derive_autoscaling_config_from_ray_cr(_one("RayCluster"))["available_node_types"]
    groups = [
        NodeShape(each["resources"]["CPU"], each["resources"].get("GPU", 0), more=each["max_workers"])
        for each in types.values()
        if each["max_workers"]
    ]
    config = parse_config(yaml.safe_load(_one("ConfigMap", "faceid-run")["data"]["run.yaml"]))
    assert nodes_that_may_come(config.execution.autoscaler_nodes) == groups
    share = Request(config.base_model.device, config.execution.threads_per_worker, 0).share(groups)
    assert share == Share(3, 1) and capacity(groups, share) == 8, "from zero to a worker on each GPU"


def test_the_ray_job_runs_on_the_cluster_with_a_command_that_exists():
    job, cluster = _one("RayJob"), _one("RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    program, command, *options = shlex.split(job["spec"]["entrypoint"])
    assert program == "faceid"
    known = {name for each in cli.get_command(click.Context(cli), command).params for name in each.opts}
    assert {option for option in options if option.startswith("--")} <= known
    mounts = PODS["RayCluster faceid.headGroupSpec.template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(Path(options[-1]).parent) in [mount["mountPath"] for mount in mounts]


def test_what_the_readme_applies_may_be_applied_again_and_starts_no_run():
    commands = re.findall(r"kubectl (apply|create) (.*-f .*)", README)
    files = {verb: set() for verb in ("apply", "create")}
    for verb, rest in commands:
        files[verb] |= set(re.findall(r"-f infra/kubernetes/(\S+)", rest))
    assert files == {"apply": {"base.yaml", "prefect.yaml", "ray.yaml"}, "create": {"ray-job.yaml", "restore.yaml"}}
    for name in files["apply"]:
        for doc in yaml.safe_load_all((FOLDER / name).read_text()):
            assert doc["kind"] not in ("RayJob", "Job") and "generateName" not in doc["metadata"], name
    for name in files["create"]:
        (job,) = yaml.safe_load_all((FOLDER / name).read_text())
        assert job["kind"].endswith("Job") and "name" not in job["metadata"], "each has a name of its own"


def test_the_command_of_the_readme_names_the_registry_for_every_image_of_ours(tmp_path):
    """The work pool's template too, whose image is a default in JSON."""
    shutil.copytree(FOLDER, tmp_path / "infra" / "kubernetes")
    (command,) = re.findall(r"^sed .*$", README, re.MULTILINE)
    environment = {**os.environ, "REGISTRY": "registry.example.org/team"}
    for _ in range(2):  # given twice it changes nothing more
        subprocess.run(["sh", "-euc", command], cwd=tmp_path, env=environment, check=True)
    ours = r"[^\s\"]*faceid:(?:cpu|gpu)"
    before = [name for file in sorted(FOLDER.iterdir()) for name in re.findall(ours, file.read_text())]
    changed = sorted((tmp_path / "infra" / "kubernetes").iterdir())
    after = [name for file in changed for name in re.findall(ours, file.read_text())]
    assert len(before) == 4 and after == [f"registry.example.org/team/{name}" for name in before]
    template = json.loads((tmp_path / "infra" / "kubernetes" / "base-job-template.json").read_text())
    assert template["variables"]["properties"]["image"]["default"] == "registry.example.org/team/faceid:gpu"


def test_the_configuration_is_one_that_a_run_accepts():
    config = parse_config(yaml.safe_load(_one("ConfigMap", "faceid-run")["data"]["run.yaml"]))
    assert config.store.startswith("s3://"), "several nodes share no folder"
    assert config.execution.workers == 0, "as many as the autoscaler brings"
    assert config.execution.ray_address == "", "Ray tells its jobs by RAY_ADDRESS"


@pytest.mark.parametrize("whose", PODS)
def test_every_pod_fits_the_profile_restricted(whose):
    spec = PODS[whose]["spec"]
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] and pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all("hostPath" not in volume for volume in spec.get("volumes", []))
    needs_token = {"faceid-ray-head", "faceid-prefect-worker"}
    assert spec.get("serviceAccountName") in needs_token or spec["automountServiceAccountToken"] is False


def test_versions_are_those_that_the_tests_run_with():
    assert _one("RayCluster")["spec"]["rayVersion"] == PINS["ray"]
    for spec in (pod["spec"] for pod in PODS.values()):
        for container in spec["containers"]:
            name, _, tag = container["image"].rpartition(":")
            if name == "prefecthq/prefect":
                assert tag.startswith(f"{PINS['prefect']}-python3.11")
            else:
                assert container["image"] in {"faceid:cpu", "faceid:gpu", "postgres:16", "{{ image }}"}
    assert _job_template()["variables"]["properties"]["image"]["default"] == "faceid:gpu"


def _settings() -> dict[str, str]:
    """Environment variables of all pods, with their values; of secrets the value is the secret's name and key."""
    found = dict(_one("ConfigMap", "faceid-environment")["data"])
    for pod in PODS.values():
        for container in pod["spec"]["containers"]:
            for each in container["env"] if isinstance(container.get("env"), list) else []:
                secret = each.get("valueFrom", {}).get("secretKeyRef", {})
                found[each["name"]] = each.get("value") or f"{secret['name']}/{secret['key']}"
    return found


def test_every_prefect_variable_is_one_that_prefect_knows():
    from prefect.settings.legacy import _get_valid_setting_names
    from prefect.settings.models.root import Settings
    from prefect_kubernetes.settings import KubernetesSettings

    named = {name for name in _settings() if name.startswith("PREFECT_")}
    known = _get_valid_setting_names(Settings) | _get_valid_setting_names(KubernetesSettings)
    assert len(named) >= 12 and named <= known


def test_every_secret_is_made_by_a_command_of_the_readme():
    made = set(re.findall(r"create secret \S+ (\S+)", README))
    text = "".join(file.read_text() for file in FOLDER.glob("*.[yj]*"))
    assert not [doc for doc in DOCUMENTS if doc["kind"] == "Secret"]
    named = set(re.findall(r"secretRef\": \{\"name\": \"(\S+?)\"|secret(?:Key)?Ref: \{name: ([^,}]+)", text))
    used = {name for pair in named for name in pair if name} | {
        _one("RayCluster")["spec"]["authOptions"]["secretName"],
        _one("Ingress")["spec"]["tls"][0]["secretName"],
    }
    assert used == made
    for value in _settings().values():
        name, _, key = value.partition("/")
        if key and name in made:
            assert re.search(rf"{name} --from-\w+={key}=", README), value
    assert _settings()[VARIABLE] == f"faceid-identity/{VARIABLE}"


def test_network_policies_and_services_name_pods_that_are_there():
    labels = [pod["metadata"].get("labels", {}) for pod in PODS.values() if "metadata" in pod]
    labels.append({"ray.io/cluster": _one("RayCluster")["metadata"]["name"]})  # KubeRay's own label

    def require(selector: dict[str, str]) -> None:
        assert any(selector.items() <= each.items() for each in labels), selector

    policies = [doc["spec"] for doc in DOCUMENTS if doc["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in policies, "nothing comes in that is not named"
    for policy in policies:
        require(policy["podSelector"].get("matchLabels", {}))
        for rule in policy.get("ingress", []):
            for peer in rule["from"]:
                assert peer.keys() <= {"podSelector", "namespaceSelector"} and len(peer) == 1
                require(peer.get("podSelector", {}).get("matchLabels", {}))
    services = [doc for doc in DOCUMENTS if doc["kind"] == "Service"]
    for service in services:
        require(service["spec"]["selector"])
    names = {service["metadata"]["name"] for service in services}
    assert re.search(r"//([^:/]+)", _settings()["PREFECT_API_URL"])[1] in names
    assert re.search(r"@([^:/]+)", _settings()["PREFECT_SERVER_DATABASE_CONNECTION_URL"])[1] in names


def test_accounts_may_do_what_they_need_and_not_more():
    accounts = {doc["metadata"]["name"] for doc in DOCUMENTS if doc["kind"] == "ServiceAccount"}
    used = {pod["spec"].get("serviceAccountName") for pod in PODS.values()} - {None, "{{ service_account }}"}
    used |= {_job_template()["variables"]["properties"]["service_account"]["default"]}
    used |= {each["service_account"] for each in _job_variables().values() if each}
    assert used == accounts
    for role in (doc for doc in DOCUMENTS if doc["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "secrets" not in rule["resources"]
    assert not [doc for doc in DOCUMENTS if doc["kind"].startswith("ClusterRole")]


def _job_variables() -> dict[str, dict[str, str]]:
    """What each deployment asks of the pool's job template."""
    deployments = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
    return {each["name"]: each["work_pool"].get("job_variables", {}) for each in deployments}


def test_what_deletes_has_the_keepers_account_and_asks_for_no_gpu():
    known = _job_template()["variables"]["properties"]
    for name, variables in _job_variables().items():
        assert variables.keys() <= known.keys(), "a name that the template does not have would count for nothing"
        deletes = name in {"erase-pool", "erase-expired-consent-pool", "collect-garbage-pool"}
        asked = variables.get("service_account", "faceid-run"), variables.get("gpus", "1")
        assert asked == (("faceid-keeper", "0") if deletes else ("faceid-run", "1")), name


def test_the_pool_has_our_job_template_also_if_the_worker_is_there_first():
    (worker,) = (pod["spec"] for pod in PODS.values() if pod["spec"].get("serviceAccountName") == "faceid-prefect-worker")
    assert "--no-create-pool-if-not-found" in worker["containers"][0]["args"]
    (command,) = re.findall(r"^prefect work-pool create .*$", README, re.MULTILINE)
    assert "--overwrite" in command.split() and "infra/kubernetes/base-job-template.json" in command


def test_what_the_worker_hands_to_its_jobs_is_there_in_them():
    """Prefect's worker gives its own settings to the pods that it makes, paths among them."""
    (worker,) = (pod["spec"] for pod in PODS.values() if pod["spec"].get("serviceAccountName") == "faceid-prefect-worker")
    paths = {each["value"] for each in worker["containers"][0]["env"] if each.get("value", "").startswith("/")}
    mounts = PODS["base job template.spec.template"]["spec"]["containers"][0]["volumeMounts"]
    assert paths and paths <= {mount["mountPath"] for mount in mounts}


def test_a_server_that_is_restarted_still_knows_who_holds_a_slot():
    from flows.serve import SERVER_SETTINGS

    (server,) = (pod["spec"] for pod in PODS.values() if pod["spec"]["containers"][0]["name"] == "server")
    (container,) = server["containers"]
    settings = {each["name"]: each.get("value") for each in container["env"]}
    assert SERVER_SETTINGS.items() <= settings.items()
    home = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}[settings["PREFECT_HOME"]]
    (volume,) = (each for each in server["volumes"] if each["name"] == home)
    assert _one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])


def test_a_ray_job_that_is_stopped_has_time_for_its_outcome_reports():
    from faceid_core.nightly import CLOSE_SECONDS, REPORTS_SECONDS

    container = PODS["RayCluster faceid.headGroupSpec.template"]["spec"]["containers"][0]
    settings = {each["name"]: each.get("value") for each in container["env"]}
    assert float(settings["RAY_JOB_STOP_WAIT_TIME_S"]) > REPORTS_SECONDS + CLOSE_SECONDS
    import ray.dashboard.modules.job.job_supervisor as supervisor

    assert "RAY_JOB_STOP_WAIT_TIME_S" in Path(supervisor.__file__).read_text()


def test_a_backup_is_restored_with_what_made_it():
    def text_of(spec: dict[str, Any]) -> str:
        return spec["containers"][0]["command"][-1]

    (backup,) = (pod["spec"] for pod in PODS.values() if "pg_dump" in str(pod["spec"]["containers"][0].get("command")))
    (restore,) = (pod for pod in PODS.values() if "pg_restore" in str(pod["spec"]["containers"][0].get("command")))
    for option in ("--host faceid-postgres", "--username prefect"):
        assert option in text_of(backup) and option in text_of(restore["spec"])
    assert restore["metadata"]["labels"]["faceid/postgres-client"] == "true"
    assert backup["containers"][0]["env"] == restore["spec"]["containers"][0]["env"]


def test_prometheus_reaches_the_port_on_which_ray_has_its_metrics():
    policy = _one("NetworkPolicy", "ray-metrics")["spec"]["ingress"][0]
    (port,) = (each["port"] for each in policy["ports"])
    of_ray = [pod["spec"]["containers"][0] for name, pod in PODS.items() if name.startswith("RayCluster")]
    assert len(of_ray) == 3
    for container in of_ray:
        assert {"name": "metrics", "containerPort": port} in container["ports"]


@pytest.mark.parametrize("gpus", ["1", "0"])
def test_the_work_pools_template_gives_a_job_that_executes_a_flow_run(gpus):
    """By the code of the worker, with a flow run of one of our deployments."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    flow_run = FlowRun(id=uuid4(), flow_id=uuid4(), name="nightly")
    no_client: Any = (
        object()
    )  # asked for blocks and variables of the server only, which the template has none of
    configuration = asyncio.run(
        KubernetesWorkerJobConfiguration.from_template_and_values(
            _job_template(), {"gpus": gpus}, client=no_client
        )
    )
    configuration.prepare_for_flow_run(flow_run)
    job = configuration.job_manifest
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["image"] == "faceid:gpu"
    assert container["resources"]["limits"] == {"cpu": "6", "memory": "32Gi", "nvidia.com/gpu": gpus}
    assert job["spec"]["backoffLimit"] == 0, "a run that failed is Prefect's to start again"
    assert {"name": "PREFECT__FLOW_RUN_ID", "value": str(flow_run.id)} in container["env"]
    for misplaced in ("parallelism", "completions"):  # Prefect's worker asks for them in this place
        del job["spec"]["template"]["spec"][misplaced]
    kubernetes_validate.validate(job, KUBERNETES[-1], strict=True)
