"""What every test can ask for: stores on a folder and S3, and an environment without the user's secrets."""

import logging
import os
import random
import uuid
from dataclasses import dataclass

import pytest

TEST_SECRET = "5e" * 32


FAULT_SEED = "FACEID_FAULT_SEED"


def pytest_configure(config):
    """Draw the seed of the fault points once, for all processes of this run of the tests."""
    os.environ.setdefault(FAULT_SEED, str(random.SystemRandom().randrange(10**6)))


def pytest_terminal_summary(terminalreporter):
    """Say which fault points were taken, so that the same ones can be taken again."""
    terminalreporter.write_line(f"fault points: {FAULT_SEED}={os.environ[FAULT_SEED]}")


@dataclass(frozen=True)
class S3Server:
    """moto's server, and the environment by which a process reaches it."""

    endpoint: str
    env: dict[str, str]
    client: object

    def new_bucket(self) -> str:
        """The name of a fresh bucket."""
        name = f"faceid-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session", autouse=True)
def quiet_environment(tmp_path_factory):
    """No test reads or writes the user's own secret, caches, or cloud credentials."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEID_IDENTITY_SECRET", TEST_SECRET)
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
        patch.setenv("AWS_CONFIG_FILE", str(home / "config-of-aws"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Under a service or in a pod people are named by key (`flows.display.is_logged`).
        unwanted = ("AWS_ENDPOINT_URL", "AWS_PROFILE", "JOURNAL_STREAM", "KUBERNETES_SERVICE_HOST", "RAY_JOB_CONFIG")
        for name in [name for name in os.environ if name.startswith(unwanted)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def s3_server(quiet_environment):
    """A server that speaks S3; boto3 and delta-rs find it through the environment, child processes too."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield S3Server(env["AWS_ENDPOINT_URL"], env, boto3.client("s3"))
    server.stop()


@pytest.fixture
def s3_store(s3_server):
    """An empty store below a prefix of a fresh bucket."""
    from faceid_core.store import open_store

    return open_store(f"s3://{s3_server.new_bucket()}/some/prefix")


@pytest.fixture
def folder_store(tmp_path):
    """An empty store in a folder that is yet to be made."""
    from faceid_core.store import open_store

    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["folder", "s3"])
def any_store(request):
    """Each kind of store in turn."""
    return request.getfixturevalue(f"{request.param}_store")
