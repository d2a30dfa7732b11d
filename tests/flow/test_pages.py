"""A sweep in MLflow's own pages, as a person finds it there with a browser."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.flow.test_sweep_jobs import Sweep, start_sweep

from tunetrail.sweeps.winner import decide_sweep

CHROMIUM = Path("/usr/bin/chromium")
RATES = ["1e-9", "1e-3", "1e-2"]
OBJECTIVE = "validation/ndcg_at_10"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]

__all__ = ["start_sweep"]


@pytest.fixture
def sweep(start_sweep: Callable[..., Sweep]) -> Sweep:
    """A sweep of three jobs whose best one became root."""
    sweep = start_sweep(RATES)
    for number in range(len(RATES)):
        sweep.run(number)
    decide_sweep(sweep.settings, sweep.database, sweep.run_id)
    return sweep


@pytest.fixture
def address(sweep: Sweep, workplace: Path) -> Iterator[str]:
    """The address that `tunetrail ui` prints, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = sweep.settings.tracking.uri
    command = [sys.executable, "-m", "tunetrail", "ui", "--uri", uri, "--port", str(port)]
    # A file, since a pipe that nobody reads stops the server once it is full.
    printed = workplace / "ui.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(command, cwd=workplace, stdout=file, stderr=file)
    try:
        _wait_until_it_answers(port, process)
        match = re.search(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs\S*", printed.read_text())
        assert match is not None, printed.read_text()
        yield match[0]
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_it_answers(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1000):
        assert process.poll() is None, "the server has ended"
        with socket.socket() as client:
            client.settimeout(0.5)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise AssertionError("the server doesn't answer")


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """A browser's page, with the panel of MLflow's assistant closed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1400, "height": 800})
        context.set_default_timeout(240_000)
        context.add_init_script(
            "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
            "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        )
        yield context.new_page()
        browser.close()


def shot(page: Any, name: str) -> None:
    """Keep a picture of the page if $TUNETRAIL_TEST_SHOTS names a folder."""
    folder = os.environ.get("TUNETRAIL_TEST_SHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def scroll_to(page: Any, first_row: str, text: str) -> None:
    """Turn the mouse wheel over a table, which holds only the rows in sight, until a text appears."""
    row = page.get_by_text(first_row, exact=True).first
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    # Only the columns of values take the wheel: the one of names follows them.
    page.mouse.move(box["x"] + 400, box["y"])
    for _ in range(200):
        if page.get_by_text(text, exact=True).count():
            page.get_by_text(text, exact=True).first.scroll_into_view_if_needed()
            return
        page.mouse.wheel(0, 200)
        time.sleep(0.3)
    raise AssertionError(f"the table has no {text}")


def test_a_sweep_is_found_sorted_compared_and_its_root_explained(
    sweep: Sweep, address: str, page: Any
) -> None:
    best = sweep.study.best()
    assert best is not None and best.values is not None

    # The printed address shows the experiment's runs, the sweep among them.
    page.goto(address)
    page.get_by_text("Model training").wait_for()
    page.get_by_role("link", name="sweep", exact=True).first.wait_for()
    shot(page, "runs")

    # Its jobs are found by it, and sorted by the objective, without unfolding anything.
    search = page.get_by_placeholder("metrics.rmse < 1")
    search.fill(f"tags.`mlflow.parentRunId` = '{sweep.run_id}'")
    search.press("Enter")
    page.get_by_role("button", name="Sort: Created").click()
    page.keyboard.type(OBJECTIVE)
    page.get_by_role("menuitemcheckbox").filter(has_text=OBJECTIVE).first.click()
    page.get_by_role("button", name=f"Sort: {OBJECTIVE}").wait_for()
    # The elements' order in the page isn't the rows' order on the screen.
    rows = [f".ag-row[row-index='{row}']" for row in range(len(RATES))]
    shown = [page.locator(f"{row} a[href*='/runs/']").first.inner_text() for row in rows]
    by_value = sorted(sweep.study.jobs(), key=lambda job: job.values or (0.0,), reverse=True)
    rates = [job.overrides[0].removeprefix("embedding.training.") for job in by_value]
    assert shown == rates
    shot(page, "jobs")

    # Selected and compared, parameters and metrics stand in one table.
    for row in range(len(RATES)):
        page.locator(".ag-row .ag-selection-checkbox").nth(row).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text(f"Comparing {len(RATES)} Runs").first.wait_for()
    page.get_by_text("embedding.training.learning_rate", exact=True).first.wait_for()
    # The plot begins with what they are compared by.
    axes = page.locator(".pcp-plot .axis-title")
    axes.filter(has_text=OBJECTIVE).first.wait_for()
    assert [text for text in axes.all_text_contents() if "/" in text] == [OBJECTIVE]
    shot(page, "compare-plot")
    scroll_to(page, "comparison/after", OBJECTIVE)
    shot(page, "compare")

    # The chart view draws the jobs' objective.
    server = address.partition("#")[0]
    experiment = re.search(r"experiments/\d+", address)
    assert experiment is not None
    page.goto(
        f"{server}#/{experiment[0]}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        f"&searchFilter=tags.%60mlflow.parentRunId%60+%3D+%27{sweep.run_id}%27"
        f"&orderByKey=metrics.%60{OBJECTIVE}%60"
    )
    page.get_by_text(rates[0]).first.wait_for()
    page.get_by_placeholder("Search metric charts").fill(f"{OBJECTIVE}$")
    page.get_by_text(f"{best.values[0]:.2f}", exact=True).first.wait_for()
    shot(page, "chart")

    # The model page names root, and the version says on what evidence.
    page.goto(f"{server}#/models/embedding/versions/1?workflowType=machine_learning")
    page.get_by_text("Promoted to root: nDCG@10 is").first.wait_for()
    page.get_by_text(re.compile(r"^@\s*root$")).first.wait_for()
    shot(page, "version")
