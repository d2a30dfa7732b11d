import dataclasses
import subprocess
import sys

from tunetrail.stores.processes import ProcessIdentity


def test_process_identity_current_is_alive():
    assert not ProcessIdentity.current().is_dead()


def test_process_identity_of_a_reused_pid_is_dead():
    me = ProcessIdentity.current()
    assert dataclasses.replace(me, started=me.started - 60).is_dead()


def test_process_identity_of_an_ended_process_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    identity = dataclasses.replace(ProcessIdentity.current(), pid=child.pid)
    child.wait()
    assert identity.is_dead()


def test_process_identity_of_another_host_is_not_called_dead():
    identity = ProcessIdentity(pid=2**22 + 1, host="some.other.host", started=0.0)
    assert not identity.is_dead()
