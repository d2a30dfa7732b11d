"""Sessions whose defects show in vectors only, or beside an earlier session: outliers, wrong labels, drift."""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.corpora.languages import SENTENCES
from tests.corpora.planting import PlantedSession, Plot, quiet
from tests.corpora.real_text import RealText, real_texts

from tunetrail.config import CheckConfig, ValidationConfig

_LABELLED = {"tkinter": "windows", "asyncio": "tasks", "email": "mail", "xml": "markup", "logging": "records"}
_WRONG_SHARE = 0.05


def vector_sessions(seed: int) -> Iterator[PlantedSession]:
    """Yield a session with outliers, and one with wrong labels."""
    texts = real_texts(seed)
    yield _with_outliers(texts, random.Random(f"outliers {seed}"))
    yield _with_wrong_labels(texts, random.Random(f"wrong labels {seed}"))


def _with_outliers(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="text", rng=rng)
    for text in texts[:500]:
        plot.add({"text": text.documentation})
    for number in range(24):
        plot.add({"text": _STRANGE[number % len(_STRANGE)](rng)}, "rows.outlier")
    config = quiet()
    config.rows.outlier = CheckConfig()
    unknown = {"rows.language", "rows.encoding"}
    return plot.session("outliers", config, unknown=frozenset(unknown))


def _gibberish(rng: random.Random) -> str:
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 11))) for _ in range(14))


def _numbers(rng: random.Random) -> str:
    return ", ".join(f"{rng.uniform(-100, 100):.3f}" for _ in range(25))


def _encoded(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "+/", k=160)) + "=="


def _foreign(rng: random.Random) -> str:
    return " ".join(rng.sample(SENTENCES[rng.choice(("de", "fr", "es"))], 2))


_STRANGE: tuple[Callable[[random.Random], str], ...] = (_gibberish, _numbers, _encoded, _foreign)


def _with_wrong_labels(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="label", rng=rng)
    for package, label in _LABELLED.items():
        members = [text for text in texts if text.package == package][:75]
        for number, text in enumerate(members):
            is_wrong = number < _WRONG_SHARE * len(members)
            given = rng.choice([other for other in _LABELLED.values() if other != label]) if is_wrong else label
            checks = ["labels.mislabelled"] if is_wrong else []
            plot.add({"text": f"{text.documentation}\n{text.code}", "label": given}, *checks)
    config = quiet()
    config.labels.mislabelled = CheckConfig()
    return plot.session("wrong labels", config)


def drift_sessions(seed: int) -> Iterator[PlantedSession]:
    """Yield sessions beside an earlier one: halves of one, and such as differ in a known way."""
    texts = real_texts(seed)
    for number in range(4):
        drawn = random.Random(f"halves {seed} {number}").sample(texts, 300 + 60 * number)
        middle = len(drawn) // 2
        yield _beside(f"halves {number}", _documentation(drawn[:middle]), _documentation(drawn[middle:]))
    for number in range(2):
        drawn = random.Random(f"drift {seed} {number}").sample(texts, 600)
        before, now = _documentation(drawn[:300]), _documentation(drawn[300:])
        halved = [" ".join(text.split()[: len(text.split()) // 2]) for text in now]
        doubled = [f"{text} {other}" for text, other in zip(now, now[1:] + now[:1], strict=True)]
        for name, changed in (("halved", halved), ("doubled", doubled)):
            unknown = frozenset({"drift.embedding"})
            yield _beside(f"{name} {number}", before, changed, "drift.length", unknown=unknown)
        code = [text.code for text in drawn[300:]]
        every = ("drift.length", "drift.vocabulary", "drift.embedding")
        yield _beside(f"code {number}", before, code, *every)
        topics = [text.documentation for text in texts if text.package in ("tkinter", "turtle")]
        others = [text.documentation for text in texts if text.package in ("email", "xml", "http", "urllib", "mailbox")]
        unknown = frozenset({"drift.length", "drift.vocabulary"})
        pair = (topics, others) if number else (others, topics)
        yield _beside(f"other topics {number}", *pair, "drift.embedding", unknown=unknown)


def _documentation(texts: Sequence[RealText]) -> list[str]:
    return [text.documentation for text in texts]


def _beside(name: str, before: Sequence[str], now: Sequence[str], *checks: str, **more: Any) -> PlantedSession:
    plot = Plot(shape="text", rng=random.Random(name), of_session=set(checks))
    earlier = Plot(shape="text", rng=random.Random(name))
    for text in now:
        plot.add({"text": text})
    for text in before:
        earlier.add({"text": text})
    config: ValidationConfig = quiet()
    return plot.session(name, config, reference=earlier.session(name).rows, **more)
