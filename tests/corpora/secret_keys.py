"""Keys, tokens and passwords, put together when drawn, so that no file holds one; and what only stands for them."""

import base64
import random
import string

from tests.corpora.drawing import ALPHANUMERIC, Draw, one_of, some

_URL_SAFE = ALPHANUMERIC + "_-"


def _key(beginning: str, alphabet: str, count: int) -> Draw:
    """Return a drawer of a vendor's keys, of which `beginning` is given with blanks in it."""
    return lambda rng: beginning.replace(" ", "") + some(rng, alphabet, count)


VENDOR_KEYS: tuple[Draw, ...] = (
    *(
        _key("AK IA", string.ascii_uppercase + "234567", 16),
        _key("AS IA", string.ascii_uppercase + string.digits, 16),
    ),
    *(_key(f"gh {letter}_", ALPHANUMERIC, 36) for letter in "posu"),
    _key("github _pat_", ALPHANUMERIC + "_", 82),
    _key("gl pat-", _URL_SAFE, 20),
    lambda rng: (
        f"xo{rng.choice('xX').lower()}b-"
        + "-".join((some(rng, string.digits, 12), some(rng, ALPHANUMERIC, 24)))
    ),
    *(
        _key("sk -", ALPHANUMERIC, 48),
        _key("sk -proj-", _URL_SAFE, 120),
        _key("sk -ant-api03-", _URL_SAFE, 95),
    ),
    _key("AI za", _URL_SAFE, 35),
    *(_key("sk _live_", ALPHANUMERIC, 24), _key("rk _live_", ALPHANUMERIC, 24)),
    _key("h f_", ALPHANUMERIC, 34),
    _key("py pi-AgEIcHlwaS5vcmc", _URL_SAFE, 140),
    _key("np m_", ALPHANUMERIC, 36),
)


def _json_web_token(rng: random.Random) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    claims = f'{{"sub":"{rng.randrange(10**9)}","iat":{rng.randrange(10**9)}}}'
    payload = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
    return ".".join((header, payload, some(rng, _URL_SAFE, 43)))


def _private_key(rng: random.Random) -> str:
    owner = rng.choice(("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "))
    lines = [some(rng, ALPHANUMERIC + "+/", 64) for _ in range(rng.randint(2, 20))]
    return "\n".join(
        (f"-----BEGIN {owner}PRIVATE KEY-----", *lines, f"-----END {owner}PRIVATE KEY-----")
    )


def _bearer(rng: random.Random) -> str:
    return f"Authorization: {rng.choice(('Bearer', 'bearer'))} {some(rng, _URL_SAFE, rng.randint(24, 60))}"


def _basic(rng: random.Random) -> str:
    pair = f"{rng.choice(('aladdin', 'root'))}:{some(rng, ALPHANUMERIC, 10)}"
    return f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}"


def _word_with_numbers(rng: random.Random) -> str:
    return rng.choice(("hunter", "Summer", "dragon", "Tr0ub4dor&", "qwerty")) + some(
        rng, string.digits, 4
    )


def _assigned_password(rng: random.Random) -> str:
    templates = (
        *(
            'password = "{}"',
            "DB_PASSWORD='{}'",
            '"password": "{}"',
            "password={}",
            "password: {}",
            "passwd: {}",
        ),
        *(
            "userPassword := `{}`",
            "config['password'] = '{}'",
            'connect(user="x", password="{}", port=1)',
        ),
    )
    return rng.choice(templates).format(_word_with_numbers(rng))


def _assigned_token(rng: random.Random) -> str:
    value = some(
        rng, *rng.choice(((string.hexdigits[:16], 32), (ALPHANUMERIC, 40), (ALPHANUMERIC, 24)))
    )
    templates = (
        *(
            'api_key: "{}"',
            "API_KEY={}",
            'token = "{}"',
            "?access_token={}",
            "&api-key={}",
            '"client_secret": "{}"',
        ),
        *("export MY_SERVICE_TOKEN={}", "secret_key: {}", "API key: {}", "apiKey = '{}'"),
    )
    return rng.choice(templates).format(value)


def _aws_secret(rng: random.Random) -> str:
    value = some(rng, ALPHANUMERIC + "+/", 39) + rng.choice(ALPHANUMERIC)
    return rng.choice(
        ("aws_secret_access_key = {}", "AWS_SECRET_ACCESS_KEY={}", "Secret access key: {}")
    ).format(value)


def _url(rng: random.Random) -> str:
    scheme = rng.choice(("https", "postgresql+psycopg", "redis", "amqp", "mongodb+srv"))
    return f"{scheme}://{rng.choice(('admin', 'svc-user', ''))}:{_word_with_numbers(rng)}@db.example.com:5432/main"


SECRETS: tuple[Draw, ...] = (
    *VENDOR_KEYS,
    *(
        _json_web_token,
        _private_key,
        _bearer,
        _basic,
        _assigned_password,
        _assigned_token,
        _aws_secret,
        _url,
    ),
)
NO_SECRETS: tuple[Draw, ...] = (
    one_of(
        "password = getpass()",
        "password = getpass.getpass(prompt)",
        "password = None",
        "password: str = None",
    ),
    one_of(
        "def login(user: str, password: str) -> Token:",
        "token = self.token",
        "token = tokens[0]",
        "pwd = os.getcwd()",
    ),
    one_of(
        'api_key=os.environ["API_KEY"]',
        "token=token",
        "password=password2",
        "secret = request.args.get(1)",
    ),
    one_of(
        'password = "%s"',
        'password = "{password}"',
        "PASSWORD=${DB_PASSWORD}",
        "password: <your password>",
    ),
    one_of(
        'password = "********"',
        'api_key = "YOUR_API_KEY"',
        'token = "..."',
        '"password": "string"',
        'password=""',
    ),
    one_of(
        'tokenizer = "bert-base-uncased-12layers"',
        "max_tokens: 4096",
        'token_type = "bearer2024"',
        "token: NAME",
    ),
    one_of(
        'password_file = "/run/secrets/pw1"',
        'secret_name: "db-prod-01"',
        "token_url = https://x.example/t0ken99",
    ),
    one_of(
        "commit ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~", "md5 ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"
    ),
    one_of(
        "~~~~~~~~-~~~~-4~~~-a~~~-~~~~~~~~~~~~",
        "sha256:~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
    ),
    one_of(
        "sk-toggleable-content-estimator-label",
        "class='sk-text-repr-fallback-wide'",
        "hf_hub_download_and_extract",
    ),
    one_of(
        "Bearer authentication-is-required-here",
        "the bearer of this letter",
        "Basic authentication",
        "a basic understanding",
    ),
    one_of(
        "https://host.example:8080/path",
        "redis://localhost:6379/0",
        "http://[fd::1]:80",
        "https://example.com/?q=a:b",
    ),
    one_of(
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "a line such as -----BEGIN PRIVATE KEY-----, then",
    ),
    one_of(
        'if token == "endif99x":',
        "secret santa: everyone",
        "the password is checked here",
        "access key: see below",
    ),
)
