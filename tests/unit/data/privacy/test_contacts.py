import pytest

from tunetrail.data.privacy.contacts import find_emails, find_ipv4_addresses, find_ipv6_addresses
from tunetrail.data.privacy.spans import Span


def found(text: str, spans: list[Span]) -> list[str]:
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("Write to jürgen.müller+x@uni-köln.de.", ["jürgen.müller+x@uni-köln.de"]),
        ("<a@b.io>;c@d.org,e@f.net", ["a@b.io", "c@d.org", "e@f.net"]),
        ("see...bob@x.com", ["bob@x.com"]),
        (f"{'a' * 64}@x.com", [f"{'a' * 64}@x.com"]),
        (f"{'a' * 65}@x.com", []),
        (
            "x = w@v.reshape(2); @decorator.setter; user@; a@b; git@github.com:a/b.git; icon@2x.png",
            [],
        ),
    ],
)
def test_emails_need_a_local_part_and_a_domain(text: str, addresses: list[str]) -> None:
    assert found(text, find_emails(text)) == addresses


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("from 192.168.1.17:8080, 10.0.0.1.", ["192.168.1.17", "10.0.0.1"]),
        ("1.2.3.4.5 and 1.2.3 and 300.1.1.1 and 01.2.3.4.x", []),
        ("127.0.0.1 0.0.0.0 255.255.255.0 224.0.0.1", []),
        ("version 45.33.2.1, pip==45.33.2.1, pkg-45.33.2.1.tar.gz, § 45.33.2.1", []),
        ("8.8.8.8", []),
        ("8.8.8.8:53, the server 9.9.9.9", ["8.8.8.8", "9.9.9.9"]),
    ],
)
def test_ipv4_addresses_are_no_versions_and_somebodys(text: str, addresses: list[str]) -> None:
    assert found(text, find_ipv4_addresses(text)) == addresses


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("http://[2001:db8::1]:80/ fe80::1%eth0.", ["2001:db8::1", "fe80::1"]),
        ("It is 2001:0db8:0:0:0:0:0:1.", ["2001:0db8:0:0:0:0:0:1"]),
        ("::ffff:10.1.2.3", ["::ffff:10.1.2.3"]),
        (
            ":: ::1 ::ffff:127.0.0.1 ff02::1 std::vector face::bead x[2000::2] 00:1a:2b:3c:4d:5e Note:: 12:30:45",
            [],
        ),
    ],
)
def test_ipv6_addresses_are_no_slices_and_somebodys(text: str, addresses: list[str]) -> None:
    assert found(text, find_ipv6_addresses(text)) == addresses
