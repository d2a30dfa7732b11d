from tests.commands import CallMain


def test_ui_refuses_a_store_that_is_not_there(call_main: CallMain) -> None:
    result = call_main("ui", "--uri", "sqlite:///absent.db")
    assert result.exit_code == 2
    assert result.error_line.startswith(
        "error: --uri must name a store with runs, got sqlite:///absent.db: there is no such file."
    )
