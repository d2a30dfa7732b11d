import pytest

from tunetrail.data.privacy.credentials import _is_random
from tunetrail.data.privacy.spoken_secrets import find_spoken_secrets


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("My password is Tr0ub4dor&3.", ["Tr0ub4dor&3"]),
        ("Das Passwort für den alten Rechner lautet hunter22x!", ["hunter22x!"]),
        ("La contraseña es gato2024azul", ["gato2024azul"]),
        ("пароль: зима не та, пароль: zima2024a", ["zima2024a"]),
        ("密码是Tr0ub4dor&3", ["Tr0ub4dor&3"]),
        ("The PASSWORD İS İ; the password is k1ttens!", ["k1ttens!"]),
        ("The password must have 8 characters.", []),
        ("password length is 1024", []),
        ("The password is a secret.", []),
        ("In 1999, they asked for a password.", []),
        ("", []),
    ],
)
def test_secrets_follow_their_names(text: str, secrets: list[str]) -> None:
    spans = find_spoken_secrets(text, _is_random)

    assert [text[start:end] for start, end in spans] == secrets


@pytest.mark.parametrize("padding", [0, 300, 5000])
def test_a_secret_is_found_far_from_the_edges_of_a_text(padding: int) -> None:
    words_between = " " + " ".join(["w" * 21] * 5)
    value = "&" * 60 + "7"
    sentence = f"parola d'ordine{words_between} ist {value}"
    text = f"{'x ' * padding}{sentence} {'y ' * padding}"

    spans = find_spoken_secrets(text, _is_random)

    assert [text[start:end] for start, end in spans] == [value]
