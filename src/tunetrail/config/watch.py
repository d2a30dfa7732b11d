"""Settings of `tunetrail watch`: what it waits for before it trains."""

from dataclasses import dataclass

from tunetrail.config.checks import at_least, check_settings, setting


@dataclass(kw_only=True)
class WatchConfig:
    """When `tunetrail watch` trains; nothing else reads it."""

    min_rows: int = setting(1000, at_least(1))
    """Number of samples of a session and a model type, new since the last training on them, that
    start a training."""

    on_end: bool = True
    """Whether the end of a session (`Session.end()`) starts a training as well, if the session has
    any new samples."""

    interval_seconds: int = setting(60, at_least(1))
    """Seconds between two looks at the database."""

    once: bool = False
    """Whether the watch ends as soon as nothing is left to train, instead of waiting for more."""

    def __post_init__(self) -> None:
        check_settings("watch", self)
