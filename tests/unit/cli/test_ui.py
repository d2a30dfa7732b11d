import socket
from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.stores.tracking.mlflow_pages import experiment_page, jobs_page, run_page


def test_ui_refuses_a_store_that_is_not_there(call_main: CallMain) -> None:
    result = call_main("ui", "--uri", "sqlite:///absent.db", "--port", "5999")
    assert result.exit_code == 2
    assert result.error_line.startswith(
        "error: tracking_uri must name a store with runs, got sqlite:///absent.db: there is no such"
    )


@pytest.mark.parametrize("port", ["99999", "-1", "0"])
def test_ui_refuses_a_port_that_does_not_exist(call_main: CallMain, port: str) -> None:
    result = call_main("ui", "--port", port)

    assert result.exit_code == 2
    assert (
        result.error_line
        == f"error: --port must be between 1 and 65535, got {port}. Try --port 5001."
    )


def test_ui_refuses_a_port_on_which_another_program_listens(call_main: CallMain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        result = call_main("ui", "--port", str(port))

    assert result.exit_code == 2
    assert result.error_line == (
        f"error: --port must be free, got {port}: another program listens on it. "
        f"Try --port {port % 65535 + 1}."
    )


@pytest.mark.parametrize("host", ["no such host", "203.0.113.7", "a" * 300])
def test_ui_refuses_an_address_of_another_machine(call_main: CallMain, host: str) -> None:
    result = call_main("ui", "--host", host, "--port", "5998")

    assert result.exit_code == 2
    assert result.error_line.startswith("error: --host must be an address of this machine, got ")


def test_ui_refuses_a_server_and_an_unknown_experiment(
    call_main: CallMain, workplace: Path
) -> None:
    server = call_main("ui", "--uri", "http://user:secret@127.0.0.1:1/", "--port", "5997")
    unknown = call_main(
        "ui", "--uri", f"sqlite:///{workplace}/mlflow.db", "--experiment", "x", "--port", "5997"
    )

    assert "which is a server already" in server.error_line and "secret" not in server.err
    assert unknown.error_line.startswith("error: --experiment must be one of ")


def test_the_pages_of_an_experiment_and_a_run_open_in_the_mode_for_trainings() -> None:
    runs, mode = "http://h:1/#/experiments/3/runs", "workflowType=machine_learning"

    assert experiment_page("http://h:1/", "3") == f"{runs}?{mode}"
    assert run_page("http://h:1", "3", "abc") == f"{runs}/abc?{mode}"
    assert jobs_page("http://h:1", "3", "abc", "validation/mrr", descending=True) == (
        f"{runs}?{mode}&searchFilter=tags.%60mlflow.parentRunId%60%20%3D%20%27abc%27"
        "&orderByKey=metrics.%60validation%2Fmrr%60&orderByAsc=false"
    )
    assert run_page("http://h:1", "3", "abc", "a/b.html") == f"{runs}/abc/artifacts/a/b.html?{mode}"
