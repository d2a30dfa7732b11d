"""How much personal data scrubbing finds, and how much else it takes away, on texts made here."""

# ruff: noqa: RUF001 -- the commas of Chinese
import ipaddress
import random
import string
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy.scrubber import Scrubber

Make = Callable[[random.Random], str]


def digits(count: int, rng: random.Random) -> str:
    return "".join(rng.choices(string.digits, k=count))


def email(rng: random.Random) -> str:
    names = ["ann.lee", "j_smith", "maria-clara", "info", "k.novak+shop"]
    domains = ["example.com", "mail.example.org", "firma.example.de", "univ-test.ac.uk"]
    return f"{rng.choice(names)}{rng.randrange(100)}@{rng.choice(domains)}"


def card(rng: random.Random) -> str:
    """Return the number of a card with its check digit (Luhn's), written in one of three ways."""
    body = rng.choice(["4", "51", "55"])
    body += digits(15 - len(body), rng)
    doubled = [int(digit) * (2 - index % 2) for index, digit in enumerate(body)]
    total = sum(value - 9 * (value > 9) for value in doubled)
    number = body + str(-total % 10)
    separator = rng.choice(["", " ", "-"])
    return separator.join(number[start : start + 4] for start in range(0, 16, 4))


def iban(rng: random.Random) -> str:
    """Return a German IBAN with its check digits (ISO 7064, modulo 97), in groups or in one."""
    account = digits(18, rng)
    # The letters D and E are 13 and 14; the check digits are counted as 00.
    check = 98 - int(f"{account}131400") % 97
    number = f"DE{check:02d}{account}"
    grouped = " ".join(number[start : start + 4] for start in range(0, 22, 4))
    return rng.choice([number, grouped])


def address(rng: random.Random) -> str:
    return f"{rng.choice([84, 141, 178, 203])}.{rng.randrange(256)}.{rng.randrange(256)}.77"


def password(rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_letters, k=5))
    return f"{letters}{rng.choice('!#%&')}{digits(2, rng)}{rng.choice(string.ascii_lowercase)}"


def phone_of(form: str) -> Make:
    return lambda rng: "".join(digits(1, rng) if sign == "#" else sign for sign in form)


# For each language: a telephone number, then sentences for the phone, e-mail, card, account,
# address and password, and one with numbers that are nobody's.
LANGUAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "en": (
        "+1 604-555-0###",
        (
            "Please call me at {} after six.",
            "Write to {} and we will answer.",
            "My card {} was declined.",
            "Transfer it to {}, please.",
            "The server at {} doesn't answer.",
            "My password is {}, use it.",
            "Order 48213 of 2026-03-14 has 3 of 12 parts, version 2.10.4.",
        ),
    ),
    "de": (
        "+49 30 9876###",
        (
            "Rufen Sie mich unter {} an.",
            "Schreiben Sie an {}, bitte.",
            "Meine Karte {} wird abgelehnt.",
            "Überweisen Sie auf {}.",
            "Der Server {} antwortet nicht.",
            "Das Passwort lautet {} und gilt sofort.",
            "Bestellung 48213 vom 14.03.2026 hat 3 von 12 Teilen.",
        ),
    ),
    "fr": (
        "+33 1 42 68 5# ##",
        (
            "Appelez-moi au {} ce soir.",
            "Écrivez à {} pour la réponse.",
            "Ma carte {} est refusée.",
            "Virez la somme sur {}.",
            "Le serveur {} ne répond pas.",
            "Le mot de passe est {}, merci.",
            "La commande 48213 du 14/03/2026 a 3 pièces sur 12.",
        ),
    ),
    "es": (
        "+34 912 345 ###",
        (
            "Llámeme al {} por la tarde.",
            "Escriba a {} y contestamos.",
            "Mi tarjeta {} no funciona.",
            "Transfiera el importe a {}.",
            "El servidor {} no responde.",
            "La contraseña es {}, úsela.",
            "El pedido 48213 del 14/03/2026 tiene 3 de 12 piezas.",
        ),
    ),
    "pt": (
        "(11) 97113-8###",
        (
            "Liga no {} à noite.",
            "Escreva para {} hoje.",
            "O cartão {} foi recusado.",
            "Transfira para {}.",
            "O servidor {} não responde.",
            "A senha é {}, por favor.",
            "O pedido 48213 de 14/03/2026 tem 3 de 12 peças.",
        ),
    ),
    "it": (
        "+39 06 698 ####",
        (
            "Mi chiami al {} stasera.",
            "Scriva a {} per la risposta.",
            "La mia carta {} non va.",
            "Faccia il bonifico su {}.",
            "Il server {} non risponde.",
            "La password è {}, grazie.",
            "L'ordine 48213 del 14/03/2026 ha 3 pezzi su 12.",
        ),
    ),
    "nl": (
        "+31 20 794 ####",
        (
            "Bel mij op {} na zes uur.",
            "Schrijf naar {} voor antwoord.",
            "Mijn kaart {} werkt niet.",
            "Maak het over naar {}.",
            "De server {} antwoordt niet.",
            "Het wachtwoord is {}, graag.",
            "Bestelling 48213 van 14-03-2026 heeft 3 van 12 delen.",
        ),
    ),
    "ru": (
        "+7 495 123-45-##",
        (
            "Позвоните мне по номеру {} вечером.",
            "Напишите на {} сегодня.",
            "Моя карта {} не работает.",
            "Переведите на {}.",
            "Сервер {} не отвечает.",
            "Пароль: {} для входа.",
            "Заказ 48213 от 14.03.2026: 3 части из 12.",
        ),
    ),
    "zh": (
        "138-1234-5###",
        (
            "请打电话{}联系我。",
            "请发邮件到{}，谢谢。",
            "卡号{}已冻结。",
            "请汇款到{}。",
            "服务器地址是{}请检查。",
            "密码是{}，请保密。",
            "订单48213于2026年3月14日有12件中的3件。",
        ),
    ),
    "ja": (
        "03-1234-5###",
        (
            "電話番号は{}です。",
            "メールは{}までお願いします。",
            "カード番号{}が使えません。",
            "振込先は{}です。",
            "サーバー{}が応答しません。",
            "パスワードは{}です。",
            "注文48213は2026年3月14日に12個のうち3個です。",
        ),
    ),
}


def planted_texts(language: str, count: int) -> list[tuple[str, str]]:
    """Return texts of a language, each with the personal datum in it; empty for none."""
    rng = random.Random(language)
    # People put a datum into brackets, quotes or Markdown.
    frames = ("{}", "{}", "{}", "({})", "**{}**", "`{}`", '"{}"', "«{}»", "{},")
    phone, sentences = LANGUAGES[language]
    makers = (phone_of(phone), email, card, iban, address, password, lambda rng: "")
    texts = []
    for _ in range(count):
        for sentence, make in zip(sentences, makers, strict=True):
            datum = make(rng)
            framed = rng.choice(frames).format(datum) if datum else ""
            texts.append((sentence.format(framed), datum))
    return texts


def measured(texts: list[tuple[str, str]]) -> tuple[float, float]:
    """Return precision and recall of the scrubber on texts with one datum or none each."""
    scrubber = Scrubber(PrivacyConfig())
    hidden = findings = planted = 0
    for text, datum in texts:
        scrubbed, counts = scrubber.scrub(text)
        findings += sum(counts.values())
        if datum:
            planted += 1
            before, _, after = text.partition(datum)
            # Neither a piece of the datum is left, nor is anything around it lost.
            hidden += scrubbed.startswith(before + "[") and scrubbed.endswith("]" + after)
    return hidden / findings, hidden / planted


@pytest.mark.parametrize("language", LANGUAGES)
def test_planted_personal_data_is_found_and_nothing_else(language: str) -> None:
    precision, recall = measured(planted_texts(language, 40))
    print(f"{language}: precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.98 and recall >= 0.95


def log_line(rng: random.Random) -> tuple[str, str]:
    """Return a line of a log, and the personal datum in it; empty for most."""
    day, hour, second = rng.randrange(1, 29), rng.randrange(24), rng.randrange(60)
    time = f"2026-11-{day:02d} {hour:02d}:{second:02d}:{second:02d},{rng.randrange(1000):03d}"
    number, code = rng.randrange(10**9), f"{rng.getrandbits(160):040x}"
    visitor, writer = address(rng), email(rng)
    lines = [
        (f"{time} INFO [worker-{number % 8}] job {number} took {number % 9999} ms", ""),
        (f"{time} WARN Block blk_-{number}{number % 10**9:09d} failed, retry 2 of 5", ""),
        (f"{time} DEBUG commit {code} by build 2026.11.{day}.{number % 500}", ""),
        (f"[{number % 10**6}.{second:06d}] usb 1-1: new device, idVendor=05ac, idProduct=12a8", ""),
        (f"{time} ERROR at com.example.Shop.pay(Shop.java:{second}) total=1{number}.{second}", ""),
        (f"ts=177{number:010d} level=info span={code[:16]} duration={second}.{number % 1000}s", ""),
        (f"{time} INFO upgraded openssl 3.0.{second} to 3.1.{day}, kernel 6.1.0-{day}", ""),
        (f'{visitor} - - [{day}/Nov/2026:{hour:02d}:00:00 +0000] "GET /a HTTP/1.1" 200 8', visitor),
        (
            f"{time} INFO sshd: Accepted publickey for git from {visitor} port 5{second:02d}1",
            visitor,
        ),
        (f"{time} INFO mail queued for {writer}, id={code[:12]}", writer),
    ]
    return rng.choice(lines)


def test_logs_keep_everything_but_addresses() -> None:
    rng = random.Random(0)
    precision, recall = measured([log_line(rng) for _ in range(2000)])
    print(f"2,000 log lines: precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.98 and recall >= 0.98


@pytest.mark.processes
def test_source_files_keep_everything_but_addresses() -> None:
    scrubber = Scrubber(PrivacyConfig(email=False, ip_address=False))
    of_addresses = Scrubber(PrivacyConfig(email=False))
    library = Path(sysconfig.get_paths()["stdlib"])
    not_the_library = {"site-packages", "test", "tests", "idle_test"}
    files = [file for file in sorted(library.rglob("*.py")) if not not_the_library & {*file.parts}][
        :800
    ]

    findings: dict[str, int] = {}
    with_addresses = []
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for kind, count in scrubber.scrub(text)[1].items():
            findings[kind] = findings.get(kind, 0) + count
        if "IP_ADDRESS" in of_addresses.scrub(text)[1]:
            with_addresses.append(file.name)

    print(f"{len(files)} files: {findings}, addresses in {with_addresses}")
    assert len(files) >= 500 and sum(findings.values()) <= 2
    # Of the documentation of addresses; no version, section or id of an object.
    assert {*with_addresses} <= {"ipaddress.py", "socket.py", "parse.py", "uuid.py"}


def test_the_texts_made_here_hold_what_they_claim() -> None:
    rng = random.Random(0)
    for _ in range(20):
        assert ipaddress.ip_address(address(rng)).is_global
        number = iban(rng).replace(" ", "")
        assert int(f"{number[4:]}1314{number[2:4]}") % 97 == 1
