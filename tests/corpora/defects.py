"""Sessions of real text into which every defect is planted in a known set of rows, beside look-alikes."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tests.corpora import damage
from tests.corpora.languages import SENTENCES
from tests.corpora.personal_data import KINDS, instances, near_misses
from tests.corpora.planting import PlantedSession, Plot, quiet
from tests.corpora.real_text import RealText, real_texts

FEWEST_CHARACTERS, MOST_CHARACTERS, MOST_TOKENS = 5, 3000, 250
TOKEN = re.compile(r"\w+|[^\w\s]")
ABOUT_MARKUP = re.compile("html|css|xml|svg|javascript|markup|web", re.IGNORECASE)
_BLANK = ("", " ", " \n\t", "\u3000", "\r\n")
_SHORT = ("a", "x()", "ok.", "  no ", "?", "\n1\n")
_JUST_LONG_ENOUGH = ("Close", "Why?!", "x = 1", "Nein.", "\tBegin")


def row_level_sessions(seed: int) -> Iterator[PlantedSession]:
    """Yield sessions whose defects show in a row, or in two of them."""
    texts = real_texts(seed)
    yield _pairs(texts, random.Random(f"pairs {seed}"))
    yield _texts(texts, random.Random(f"texts {seed}"))
    yield _misread(texts, random.Random(f"misread {seed}"))
    yield _personal(texts, random.Random(f"personal {seed}"), seed)
    yield _scores(texts, random.Random(f"scores {seed}"))
    yield _rated(texts, random.Random(f"rated {seed}"))
    yield _labels(texts, random.Random(f"labels {seed}"))
    yield _vectors(texts, random.Random(f"vectors {seed}"))
    yield _completions(texts, random.Random(f"completions {seed}"))
    yield _chats(texts, random.Random(f"chats {seed}"))


def _pairs(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="pair", rng=rng)
    left = iter(texts)

    def pair() -> dict[str, Any]:
        text = next(left)
        return {"anchor": text.documentation, "positive": text.code}

    def spoilt(value: Any) -> dict[str, Any]:
        return {**pair(), rng.choice(("anchor", "positive")): value}

    for _ in range(300):
        plot.add(pair())
    for number in range(30):
        plot.add(spoilt(damage.wrong_types(rng)), "rows.wrong_type")
        plot.add(spoilt(rng.choice((None, float("nan")))), "rows.missing")
        plot.add(spoilt(rng.choice(_BLANK)), "rows.empty")
        plot.add(spoilt(f"{rng.choice(_SHORT)}"), "rows.too_short")
        twice = pair()["anchor"]
        said = ("x " * rng.randint(4, 40), "Done.\n" * 5, "nan\t" * 9)[number % 3]
        same = {"anchor": twice, "positive": f" {twice}\n"}
        plot.add(rng.choice((same, spoilt(said))), "rows.constant")
        plot.add({**pair(), "negative": rng.choice((None, "", " \n"))})
        plot.add({**pair(), "negative": next(left).code})
    for word in _JUST_LONG_ENOUGH:
        plot.add({**pair(), "anchor": word})
    for number in range(20):
        code = "\n".join(text.code for text in rng.sample(texts, 40))
        plot.add(spoilt(code[: MOST_CHARACTERS + 1 + 50 * number]), "rows.too_long")
        plot.add({**pair(), "positive": code[40 : MOST_CHARACTERS + 40 - number].strip()})
    for number in range(30):
        elder = pair()
        plot.add(elder)
        plot.add_twin(dict(elder), "rows.duplicate", "cleaning: duplicate")
        plot.add({"anchor": elder["anchor"], "positive": next(left).code})
        plot.add({"anchor": next(left).documentation, "positive": elder["positive"]})
        elder = pair()
        plot.add(elder)
        plot.add_twin(
            {**elder, "anchor": _nearly(elder["anchor"], number, rng)}, "cleaning: near-duplicate"
        )
    limits = {"min_characters": FEWEST_CHARACTERS, "max_characters": MOST_CHARACTERS}
    return plot.session("pairs", quiet(**limits))


def _nearly(text: str, number: int, rng: random.Random) -> str:
    """Return a text that says the same in nearly the same words; a judge of Jaccard indices finds 0.85 at least."""
    if number % 3 == 0:
        return text.upper()
    if number % 3 == 1:
        return text.replace(" ", "  ").replace(".", " !")
    words = text.split(" ")
    changed = [
        " ".join([*words[:place], f"{words[place]}s", *words[place + 1 :]])
        for place in range(len(words))
    ]
    near = [
        each
        for each in changed
        if min(jaccard(text, each, by) for by in (_grams, _triples)) >= 0.85
    ]
    return (
        rng.choice(near)
        if near
        else f"{text} {text.split()[-1]}"
        if jaccard(text, text[:-1], _grams)
        else text
    )


def jaccard(first: str, second: str, parts: Any) -> float:
    """Return the exact Jaccard index of two texts' parts."""
    one, other = parts(first), parts(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]|_", "", text.casefold()).split())


def _grams(text: str) -> set[str]:
    return {_plain(text)[start : start + 5] for start in range(len(_plain(text)) - 4)}


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _plain(text).split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def _texts(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="text", rng=rng)
    left = iter(texts)
    for _ in range(400):
        plot.add({"text": next(left).documentation})
    for _ in range(80):
        plot.add({"text": next(left).code})
    for code in (each for each in SENTENCES if each != "en"):
        for sentence in SENTENCES[code]:
            plot.add({"text": sentence}, "rows.language")
    for sentence in SENTENCES["en"]:
        plot.add({"text": sentence})
    for damaged in list(damage.ENCODING_DAMAGE.values()) * 8:
        plot.add({"text": damaged(rng, next(left).documentation)}, "rows.encoding")
    for piece in (*damage.FOREIGN_PIECES * 4, *damage.RIGHT_CHARACTERS):
        plot.add({"text": f"{next(left).documentation} {piece}"})
    for _ in range(80):
        # A text about markup keeps it.
        text = next(
            text.documentation for text in left if not ABOUT_MARKUP.search(text.documentation)
        )
        page = damage.as_markup(rng, text)
        meant = f"- {text}" if page.startswith("<ul>") else text
        plot.add({"text": page}, "cleaning: markup removed", meant=meant)
    for piece in damage.NOT_MARKUP:
        plot.add({"text": piece})
    for number in range(30):
        plot.add({"text": _of_length(MOST_TOKENS + 1 + number, texts, rng)}, "rows.too_many_tokens")
        plot.add({"text": _of_length(MOST_TOKENS - number, texts, rng)})
    repaired = {"cleaning: encoding repaired", "cleaning: characters normalised"}
    return plot.session("texts", most_tokens=MOST_TOKENS, unknown=frozenset(repaired))


def _misread(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="text", rng=rng)
    left = iter(texts)
    for piece in damage.FOREIGN_PIECES * 4:
        plot.add({"text": f"{next(left).documentation} {piece}"})
        for encoding, times in (
            ("sloppy-windows-1252", 1),
            ("sloppy-windows-1252", 2),
            ("latin-1", 1),
        ):
            right = f"{next(left).documentation} {piece}"
            broken = damage.misread(right, encoding, times)
            plot.add({"text": broken}, "rows.encoding", "cleaning: encoding repaired", meant=right)
    for number in range(60):
        right = next(left).documentation
        # NUL and its neighbours may stand for a separator, these never do.
        character = "\x07\x08\x0e\x0f\x1b\x7f"[number % 6]
        broken = right[: number % len(right)] + character + right[number % len(right) :]
        plot.add({"text": broken}, "rows.encoding", "cleaning: characters normalised", meant=right)
        right = next(left).documentation
        broken = (f"  {right}", f"{right} \r\n", f"\n\n{right}\t")[number % 3]
        plot.add({"text": broken}, "cleaning: white space normalised", meant=right)
        plot.add({"text": next(left).code})
    return plot.session("misread texts")


def _of_length(tokens: int, texts: Sequence[RealText], rng: random.Random) -> str:
    """Return real text of exactly so many tokens."""
    pieces: list[str] = []
    while sum(len(TOKEN.findall(piece)) for piece in pieces) < tokens:
        pieces.append(rng.choice(texts).documentation)
    whole = " ".join(pieces)
    return whole[: [found.end() for found in TOKEN.finditer(whole)][tokens - 1]]


def _personal(texts: Sequence[RealText], rng: random.Random, seed: int) -> PlantedSession:
    plot = Plot(shape="text", rng=rng)
    left = iter(texts)
    for kind in KINDS:
        for number, (found, missed) in enumerate(
            zip(instances(kind, 80, seed), near_misses(kind, 80, seed), strict=True)
        ):
            text = next(left).documentation
            plot.add({"text": _placed(text, found, rng)}, f"cleaning: {kind.upper()} replaced")
            if number < 60:
                plot.add({"text": _placed(next(left).documentation, missed, rng)})
    return plot.session(
        "personal data", unknown=frozenset({"rows.language"})
    )  # ids come with words of theirs


def _placed(text: str, piece: str, rng: random.Random) -> str:
    return rng.choice((f"{text} {piece}", f"{piece} {text}"))


def _scores(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="score", rng=rng)
    left = iter(texts)

    def scored(score: Any) -> dict[str, Any]:
        return {
            "sentence1": next(left).documentation,
            "sentence2": next(left).documentation,
            "score": score,
        }

    for _ in range(280):
        plot.add(scored(round(rng.random(), 2)))
    score: Any
    for score in (0.0, 1.0, 0, 1) * 3:
        plot.add(scored(score))
    for score in (1.5, -0.1, 85.0, -1.0, 2, 1e9, 1.01, -300.0, 5.0, 10):
        plot.add(scored(score), "labels.score_range")
    for score in ("high", "0.5", [0.5], True, float("inf"), 10**400):
        plot.add(scored(score), "rows.wrong_type")
    for score in (None, float("nan")):
        plot.add(scored(score), "rows.missing")
    for number in range(20):
        one = scored(0.1)
        other = (
            {"sentence1": one["sentence2"], "sentence2": one["sentence1"]}
            if number % 2
            else dict(one)
        )
        plot.add(one, "rows.contradictory")
        plot.add_twin({**other, "score": 0.9}, "rows.contradictory")
        fine = scored(0.4)
        plot.add(fine)
        plot.add({**fine, "sentence2": next(left).documentation, "score": 0.7})
    return plot.session("scores")


def _rated(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="score", rng=rng)
    for number, text in enumerate(texts[:100]):
        content = {"sentence1": text.documentation, "sentence2": text.code}
        plot.add({**content, "score": number % 5 + 1})
    for number, text in enumerate(texts[100:120]):
        content = {"sentence1": text.documentation, "sentence2": text.code}
        plot.add({**content, "score": (0, 6, 0.9, -4)[number % 4]}, "labels.score_range")
    config = quiet()
    config.labels.minimum_score, config.labels.maximum_score = 1.0, 5.0
    return plot.session("ratings", config)


def _labels(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="label", rng=rng)
    left = iter(texts)
    label: Any
    for label in ("question", "bug report", "feature-request", "praise", "level_1", "level_2"):
        for _ in range(100):
            plot.add({"text": next(left).documentation, "label": label})
    common = ("question", "bug report", "feature-request", "praise")
    wrong = {variant for label in common for variant in (label.title(), f"{label}!", label.upper())}
    while len(wrong) < 40:
        wrong.add(_mistyped(rng.choice(common), rng))
    for label in sorted(wrong):
        plot.add({"text": next(left).documentation, "label": label}, "labels.unknown_label")
    for label in (
        "level_3",
        "level_9",
        "refund",
        "phrase book",
        "request",
        "report",
        "bug",
        "suggestion",
        "12",
    ):
        plot.add({"text": next(left).documentation, "label": label})
    plot.add(
        {"text": next(left).documentation, "label": " praise "}, "cleaning: white space normalised"
    )
    for number in range(20):
        text = next(left).documentation
        plot.add({"text": text, "label": "praise"}, "rows.contradictory")
        plot.add_twin(
            {"text": text.upper() if number % 2 else text, "label": "question"},
            "rows.contradictory",
        )
        text = next(left).documentation
        plot.add({"text": text, "label": "praise"})
        plot.add_twin({"text": text, "label": "praise"}, "rows.duplicate", "cleaning: duplicate")
    for label in (None, "", 3, ["praise"]):
        check = {None: "rows.missing", "": "rows.empty"}.get(
            label if isinstance(label, str | None) else "x"
        )
        plot.add({"text": next(left).documentation, "label": label}, check or "rows.wrong_type")
    plot.of_session.add("labels.imbalance")
    return plot.session("labels")


def _mistyped(label: str, rng: random.Random) -> str:
    """Return a label with one slip of the fingers: two letters swapped, one lost, doubled or wrong.

    It's behind the first letter of a long word: elsewhere it may make another word of it, which
    nobody can tell apart.
    """
    word = rng.choice([found for found in re.finditer("[a-z]{5,}", label)])
    place = rng.randrange(word.start() + 1, word.end() - 1)
    before, here, after = label[:place], label[place], label[place + 1 :]
    other = rng.choice([letter for letter in "aeionrstl" if letter != here])
    slips = (
        before + after[0] + here + after[1:],
        before + after,
        before + here * 2 + after,
        before + other + after,
    )
    return rng.choice([slip for slip in slips if slip != label])


def _vectors(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="vector", rng=rng)
    left = iter(texts)
    numbers = np.random.default_rng(rng.randrange(2**32))

    def row(size: int = 16) -> dict[str, Any]:
        return {"text": next(left).documentation, "embedding": numbers.normal(size=size).tolist()}

    for number in range(200):
        plot.add(row())
        if number < 20:
            odd = row()
            odd["embedding"][number % 16] = (float("nan"), float("inf"), float("-inf"))[number % 3]
            plot.add(odd, "vectors.not_finite")
            plot.add({**row(), "embedding": [(0.0, -0.0, 0)[number % 3]] * 16}, "vectors.zero_norm")
            plot.add(row((15, 17, 32, 1)[number % 4]), "vectors.dimension")
            plot.add(
                {
                    **row(),
                    "embedding": ([], "0.1", [[0.1] * 16], ["a"] * 16, [True] * 16)[number % 5],
                },
                "rows.wrong_type",
            )
            plot.add({**row(), "embedding": [1e-30] + [0.0] * 15})
            plot.add({**row(), "embedding": np.full(16, -0.25, dtype=np.float32)})
            one = row()
            plot.add(one, "rows.contradictory")
            plot.add_twin({**row(), "text": one["text"]}, "rows.contradictory")
    return plot.session("vectors")


def _completions(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="completion", rng=rng)
    left = iter(texts)

    def row() -> dict[str, Any]:
        text = next(left)
        return {"input": text.code, "output": text.documentation}

    for _ in range(250):
        plot.add(row())
    for number in range(25):
        long = _of_length(2 * MOST_TOKENS + 1, texts, rng)
        cut = "rows.too_many_tokens", "conversations.truncated_output"
        plot.add({**row(), "output": long} if number % 2 else {**row(), "input": long}, *cut)
        one = row()
        plot.add(one, "rows.contradictory")
        plot.add_twin({**one, "output": next(left).documentation}, "rows.contradictory")
        plot.add({**row(), "output": one["output"]})
        plot.add({**row(), "output": ("Yes.", "No.", "42")[number % 3]})
    return plot.session("completions", most_tokens=2 * MOST_TOKENS)


def _chats(texts: Sequence[RealText], rng: random.Random) -> PlantedSession:
    plot = Plot(shape="chat", rng=rng)
    left = iter(texts)
    orders = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}

    def chat(order: str) -> dict[str, Any]:
        """Roles by their first letters; the system always says the same."""
        turns = []
        for letter in order:
            text = next(left)
            content = {"s": "You explain code in one sentence.", "a": text.documentation}.get(
                letter, text.code
            )
            turns.append({"role": orders[letter], "content": content})
        return {"messages": turns}

    for number in range(200):
        plot.add(
            chat(
                ("ua", "sua", "uaua", "uata", "suatta", "uau")[
                    number % 6 if number < 60 else number % 2
                ]
            )
        )
    for order in (
        "au",
        "uua",
        "uaa",
        "usa",
        "tua",
        "uta",
        "sa",
        "ssua",
        "uaus",
        "sutaa",
        "uasua",
        "suuaa",
    ) * 3:
        plot.add(chat(order), "conversations.turn_order")
    for number in range(20):
        one = chat("sua" if number % 2 else "ua")
        other = [*one["messages"][:-1], {"role": "assistant", "content": next(left).documentation}]
        plot.add(one, "rows.contradictory")
        plot.add_twin({"messages": other}, "rows.contradictory")
        long = chat("ua")
        long["messages"][1]["content"] = _of_length(2 * MOST_TOKENS, texts, rng)
        plot.add(long, "rows.too_many_tokens", "conversations.truncated_output")
    for messages in (
        "hello",
        [],
        [1],
        [{"role": "robot", "content": "x"}],
        {"role": "user"},
        [{"role": "user"}],
    ):
        plot.add({"messages": messages}, "rows.wrong_type")
    for content in ("", " \n"):
        plot.add(
            {"messages": [chat("u")["messages"][0], {"role": "assistant", "content": content}]},
            "rows.empty",
        )
    return plot.session("chats", most_tokens=2 * MOST_TOKENS)
