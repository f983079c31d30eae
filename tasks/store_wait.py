"""What Prefect shows of a flow run that waits for its store: a line in its log, and a state with that line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running, State

WAITING = "WaitingForStore"


class StoreWait:
    """Shows for whom the present flow run waits; called with each line that says so."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, text: str) -> None:
        """Log a line, and let the run's state say it as long as it waits."""
        get_run_logger().warning("%s", text)
        self._shown = True
        _show(Running(name=WAITING, message=text))

    def over(self) -> None:
        """Let the state say that the run is running, if it said something else."""
        if self._shown:
            self._shown = False
            _show(Running())


@contextmanager
def shown_while_waiting() -> Iterator[StoreWait]:
    """Yield what to tell about a wait for the store; the flow run's state is as before once that is over."""
    wait = StoreWait()
    try:
        yield wait
    except Exception:
        wait.over()
        raise
    wait.over()  # after an interruption nothing more is told: it has little time


def _show(state: State) -> None:
    try:
        get_client(sync_client=True).set_flow_run_state(flow_run.get_id(), state)
    except Exception as error:  # a courtesy: the log has it
        get_run_logger().info("the run's state does not show its wait for the store: %s", error)
