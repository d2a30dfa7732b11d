import pytest
from tests.corpora.drawing import drawn
from tests.corpora.secret_keys import VENDOR_KEYS

from tunetrail.data.privacy.credentials import find_secrets


def found(text: str) -> set[str]:
    return {text[start:end] for start, end in find_secrets(text)}


@pytest.mark.parametrize("key", drawn(VENDOR_KEYS, 3 * len(VENDOR_KEYS), "vendors"))
def test_keys_of_known_vendors_need_no_name(key: str) -> None:
    assert key in found(f"It was {key}.") and key in found(f'["{key}"]')


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        *(
            ('password = "hunter2"', "hunter2"),
            ("DB_PASSWORD=hunter2", "hunter2"),
            ("password: hunter2\n", "hunter2"),
        ),
        *(
            ('{"password": "pa$$w0rd"}', "pa$$w0rd"),
            ("config['passwd'] = 'geheim'", "geheim"),
            ("Password: Winter23!", "Winter23!"),
        ),
        *(
            ("userPassword := `x9x9x`", "x9x9x"),
            ('passphrase: "correct horse battery"', "correct horse battery"),
        ),
        *(
            ("api_key: 9f8e7d6c5b4a3928", "9f8e7d6c5b4a3928"),
            ("?access_token=AbC123dEf456&x=1", "AbC123dEf456"),
        ),
        *(
            ("SECRET_KEY = 'a1%x&k)7s3+o9-hj'", "a1%x&k)7s3+o9-hj"),
            ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
        ),
        *(
            ("authorization: bearer a1b2c3d4e5f6g7h8i9", "a1b2c3d4e5f6g7h8i9"),
            ("redis://:s3cr3t@cache:6379", "s3cr3t"),
        ),
        ("token=c2VjcmV0LTEyMzQ1Njc4OTA=", "c2VjcmV0LTEyMzQ1Njc4OTA="),
    ],
)
def test_names_keep_and_values_go(text: str, secret: str) -> None:
    assert found(text) == {secret}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "password = getpass()",
            "token = self.token",
            "token=token",
            "password: str",
            "password = None",
            "pwd = line2",
        ),
        *(
            "password = passwords[0]",
            "api_key = os.environ['KEY12345']",
            'password = f"{user}1"',
            "password=password2",
        ),
        *(
            'password = "%s"',
            'password = "<here1>"',
            "password: ${DB_PASS1}",
            'password = "********"',
            'password = "password"',
        ),
        *(
            '"password": "string"',
            '"password": "login.password.label"',
            'if token == "abc123def456":',
            "token: 2024-01-01",
        ),
        *(
            'tokenizer = "bert-12layers-99"',
            "max_tokens=4096",
            'password_file = "pw1.txt"',
            "token_url: https://x.io/a1b2c3d4",
        ),
        *(
            "Bearer authentication-required-here",
            "basic understanding",
            "sk-toggleable-content-estimator",
            "redis://host:6379/0",
        ),
        *(
            "http://user:${PASS}@host",
            "a -----BEGIN PRIVATE KEY----- line",
            "-----BEGIN CERTIFICATE-----\n" + "A1b2" * 16,
        ),
    ],
)
def test_what_stands_for_a_secret_is_none(text: str) -> None:
    assert found(text) == set()


def test_a_private_key_goes_as_a_whole_even_without_its_end() -> None:
    lines = "\n".join(["QUJD" * 16] * 3)
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"

    assert found(f"a\n{begin}\n{lines}\n{end}\nb") == {f"{begin}\n{lines}\n{end}"}
    assert found(f"{begin}\n{lines}\nThen we went on.") == {f"{begin}\n{lines}"}

    escaped = f"{begin}\\n{'QUJD' * 16}\\n{end}\\n"
    assert found(f'key = "{escaped}"') == {escaped.removesuffix("\\n")}
