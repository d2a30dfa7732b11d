"""Sessions whose defects show in vectors only, or beside an earlier session: outliers, wrong labels, drift."""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.corpora.languages import SENTENCES
from tests.corpora.planting import PlantedSession, Plot, quiet
from tests.corpora.real_text import RealText, real_texts
from tests.corpora.topics import LABELLED, interface_texts, labelled_texts

from tunetrail.config import CheckConfig, ValidationConfig

_WRONG_SHARE = 0.06
_USUAL_ROWS, _STRANGE_ROWS = 450, 20
_ROWS_OF_LABEL = 60


def vector_sessions(seed: int) -> Iterator[PlantedSession]:
    """Yield a session with outliers, and three with the same texts, of which others are labelled wrong each time."""
    yield _with_outliers(random.Random(f"outliers {seed}"))
    rng = random.Random(f"labelled {seed}")
    rows = [
        (text, label)
        for label, texts in labelled_texts().items()
        for text in rng.sample(texts, min(_ROWS_OF_LABEL, len(texts)))
    ]
    for number in range(3):
        yield _with_wrong_labels(rows, random.Random(f"wrong labels {seed} {number}"))


def _with_outliers(rng: random.Random) -> PlantedSession:
    """Return a session of one domain with 4 % of rows of five kinds that have nothing to do with it."""
    plot = Plot(shape="text", rng=rng)
    for text in rng.sample(interface_texts(), _USUAL_ROWS):
        plot.add({"text": text})
    kinds = [
        list(dict.fromkeys(kind(rng) for _ in range(40)))[: _STRANGE_ROWS // len(_STRANGE)]
        for kind in _STRANGE
    ]
    for text in (text for kind in kinds for text in kind):
        plot.add({"text": text}, "rows.outlier")
    config = quiet()
    config.rows.outlier = CheckConfig()
    unknown = {"rows.language", "rows.encoding"}
    return plot.session("outliers", config, unknown=frozenset(unknown))


def _gibberish(rng: random.Random) -> str:
    return " ".join(
        "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 11))) for _ in range(14)
    )


def _numbers(rng: random.Random) -> str:
    return ", ".join(f"{rng.uniform(-100, 100):.3f}" for _ in range(25))


def _encoded(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "+/", k=160)) + "=="


def _foreign(rng: random.Random) -> str:
    return rng.choice(SENTENCES[rng.choice(("de", "fr", "es", "it", "pl", "ru", "ja"))])


def _server_log(rng: random.Random) -> str:
    address = ".".join(str(rng.randint(1, 250)) for _ in range(4))
    time = f"{rng.randint(1, 28):02}/Mar/2024:{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    request = f"GET /{rng.choice(('img', 'cart', 'static', 'api'))}/{rng.randint(1, 9999)} HTTP/1.1"
    return f'{address} - - [{time} +0000] "{request}" {rng.choice((200, 304, 404, 500))} {rng.randint(100, 90000)}'


_STRANGE: tuple[Callable[[random.Random], str], ...] = (
    _gibberish,
    _numbers,
    _encoded,
    _foreign,
    _server_log,
)


def _with_wrong_labels(rows: Sequence[tuple[str, str]], rng: random.Random) -> PlantedSession:
    """Return a session of texts that show their topics, 6 % of them labelled with another one at random."""
    plot = Plot(shape="label", rng=rng)
    wrong = set(rng.sample(range(len(rows)), round(_WRONG_SHARE * len(rows))))
    for number, (text, label) in enumerate(rows):
        if number in wrong:
            other = rng.choice([each for each in LABELLED if each != label])
            plot.add({"text": text, "label": other}, "labels.mislabelled")
        else:
            plot.add({"text": text, "label": label})
    config = quiet()
    config.labels.mislabelled = CheckConfig()
    return plot.session("wrong labels", config)


def drift_sessions(seed: int) -> Iterator[PlantedSession]:
    """Yield sessions beside an earlier one: halves of one, and such as differ in a known way."""
    texts = real_texts(seed)
    for number in range(4):
        drawn = random.Random(f"halves {seed} {number}").sample(texts, 300 + 60 * number)
        middle = len(drawn) // 2
        yield _beside(
            f"halves {number}", _documentation(drawn[:middle]), _documentation(drawn[middle:])
        )
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
        others = [
            text.documentation
            for text in texts
            if text.package in ("email", "xml", "http", "urllib", "mailbox")
        ]
        unknown = frozenset({"drift.length", "drift.vocabulary"})
        pair = (topics, others) if number else (others, topics)
        yield _beside(f"other topics {number}", *pair, "drift.embedding", unknown=unknown)


def _documentation(texts: Sequence[RealText]) -> list[str]:
    return [text.documentation for text in texts]


def _beside(
    name: str, before: Sequence[str], now: Sequence[str], *checks: str, **more: Any
) -> PlantedSession:
    plot = Plot(shape="text", rng=random.Random(name), of_session=set(checks))
    earlier = Plot(shape="text", rng=random.Random(name))
    for text in now:
        plot.add({"text": text})
    for text in before:
        earlier.add({"text": text})
    config: ValidationConfig = quiet()
    return plot.session(name, config, reference=earlier.session(name).rows, **more)
