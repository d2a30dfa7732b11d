"""Let one process speak for all processes of a machine that torchrun has started."""

import os
import time

# More than the processes of one machine differ in the time that they take to fail.
_PATIENCE_SECONDS = 15.0


def wait_for_first_process() -> None:
    """Give the first process that torchrun has started on this machine time to say an error.

    All of them fail in the same way, and torchrun stops the others as soon as one has ended:
    SIGTERM ends the wait. Whoever is not stopped has failed alone, and goes on. Without torchrun
    there is no wait.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        time.sleep(_PATIENCE_SECONDS)
