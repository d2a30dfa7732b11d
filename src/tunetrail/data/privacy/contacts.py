"""Find e-mail and IP addresses in a text."""

import ipaddress
import re

from tunetrail.data.privacy.spans import LATIN, WORD, Span, leads_to

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no blanks between words, and Korean appends
# particles to them: such a letter next to an address belongs to the sentence.
_GLUED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
# Letters of the scripts with blanks, except for Latin ones: Cyrillic, Greek, Arabic and so on.
_SPACED = rf"[^\W{WORD}{_GLUED}]"
_GLUED_TOP_LEVEL = "公司|中国|中國|网络|網路|网址|香港|台湾|台灣|新加坡|한국|みんな|世界|ไทย|ລາວ"

# A part of an address has letters of one script. Possessive quantifiers and bounded repeats keep
# the search linear on hostile text. A bracket or a hyphen after the domain is code (`a@b.c(...)`)
# or a file name.
_EMAIL = re.compile(
    rf"""(?: (?<![{WORD}+%-])(?<![{WORD}]\.)
             (?P<latin> [{WORD}][{WORD}+%-]*+ (?:\.[{WORD}+%-]++)*+ )
           | (?<!{_SPACED})(?<!{_SPACED}[._+%-])
             (?P<spaced> {_SPACED}++ (?:[0-9_+%.-]++(?:{_SPACED}++|[{LATIN}]++)?)*+ )
           | (?<![\w+%.-]) (?P<glued> [{_GLUED}]{{1,20}}+ ) ) @
    (?P<domain>
        (?: (?:[{LATIN}0-9](?:[{WORD}-]{{0,61}}[{LATIN}0-9])?
             | (?:{_SPACED}|[0-9])(?:(?:{_SPACED}|[0-9-]){{0,61}}(?:{_SPACED}|[0-9]))?)\. ){{1,8}}
        (?P<top> [{LATIN}]{{2,24}}(?![{WORD}(@-]) | xn--[a-zA-Z0-9]{{2,20}}(?![{WORD}(@-])
               | {_SPACED}{{2,24}}(?![\w(@-]) )
      | (?:[\w-]{{1,63}}\.){{1,4}}(?:{_GLUED_TOP_LEVEL}) )""",
    re.VERBOSE,
)
# Nine texts in ten of most sessions are ASCII, for which the same pattern is much shorter.
_ASCII_EMAIL = re.compile(
    r"""(?<![\w+%-])(?<!\w\.)
    (?P<latin> \w[\w+%-]*+ (?:\.[\w+%-]++)*+ ) @
    (?P<domain> (?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}
                (?P<top> [A-Za-z]{2,24} | xn--[a-zA-Z0-9]{2,20} ) )
    (?![\w(@-])""",
    re.VERBOSE | re.ASCII,
)
# A package and its version, as in `vue@3.4`.
_VERSION = re.compile(r"v?[0-9]+\.[0-9]")
# Suffixes of files and of systemd's units, which follow an @ too and aren't top-level domains.
_NO_TOP_LEVEL_DOMAIN = re.compile(
    r"(?i)(?:png|jpe?g|gif|svg|webp|ico|bmp|tiff|pdf|[jt]sx?|s?css|html|json|ya?ml|toml|xml|txt|"
    r"csv|md|rst|whl|tgz|gz|tar|service|socket|timer|target|mount|slice|device|dll|exe|lib|obj)"
)
_LONGEST_LOCAL_PART = 64

# The lookbehind follows the first digit: a pattern that begins with a set of characters is
# searched much faster.
_IPV4 = re.compile(
    rf"[0-9](?<![{WORD}.].)(?<![A-Za-z]-.)[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}}"
    rf"(?![{WORD}]|\.[0-9a-z]|-[A-Za-z])"
)
# Four numbers are a version or a section if the words before them say so.
_NUMBERED = re.compile(
    r"(?i)(?:\b(?:versions?|ver\.?|v|releases?|rev(?:ision)?|build|firmware|sections?|sect?\.|"
    r"chapters?|clauses?|appendix|tables?|figures?|oid)\W{0,4}|§ ?|\w[=<>~!]=)$"
)
# 8.2.4.45 may well be a section: small numbers need one of these words near them, except in the
# private network 10.0.0.0/8.
_ADDRESSED = re.compile(
    r"ip|ipv|ips|addr|address(?:es)?|adresse|hosts?|hostname|servers?|dns|resolver|nameserver|"
    r"clients?|gateway|ping|ssh|subnet|network|remote|port|router|peers?|proxy|firewall|https?|udp|tcp|localhost"
)
_WORD = re.compile("[a-z]+")
_PORT = re.compile(r":[0-9]{2,5}\b")
_SMALL_NUMBER = 20

# The first character of one of the networks below, or of `::`.
_IPV6 = re.compile(rf"[236fF:](?<![{WORD}:.].)[0-9A-Fa-f:.]{{2,45}}+(?![{WORD}:])")
_PEOPLES_NETWORKS = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2000::/3", "fc00::/7", "fe80::/10", "64:ff9b::/96", "::ffff:0:0/96")
)


def find_emails(text: str) -> list[Span]:
    """Return the e-mail addresses with a domain of two labels or more, in any script."""
    if "@" not in text:
        return []
    pattern = _ASCII_EMAIL if text.isascii() else _EMAIL
    return [match.span() for match in pattern.finditer(text) if _is_email(match)]


def _is_email(match: re.Match[str]) -> bool:
    local, _, domain = match[0].partition("@")
    return (
        len(local) <= _LONGEST_LOCAL_PART
        and _NO_TOP_LEVEL_DOMAIN.fullmatch(match["top"] or "") is None
        and _VERSION.match(domain) is None
        # The user of every repository: git@host:path.
        and local != "git"
    )


def find_ipv4_addresses(text: str) -> list[Span]:
    """Return the IPv4 addresses of hosts: not loopback, unspecified, multicast or netmasks."""
    if text.count(".") < 3:
        return []
    return [match.span() for match in _IPV4.finditer(text) if _is_ipv4(text, match)]


def _is_ipv4(text: str, match: re.Match[str]) -> bool:
    """Tell whether four numbers are a host's address, and not a version or a section."""
    try:
        octets = ipaddress.IPv4Address(match[0]).packed
    except ValueError:
        return False

    # 0.0.0.0/8 is unspecified and 127.0.0.0/8 loopback; multicast, reserved addresses and netmasks
    # begin at 224.
    is_host = octets[0] not in (0, 127) and octets[0] < 224
    if not is_host or leads_to(text, match.start(), _NUMBERED):
        return False

    # Versions and sections have small numbers, but so has the private network 10.0.0.0/8.
    may_be_version = max(octets[:3]) < _SMALL_NUMBER and octets[0] != 10
    if not may_be_version or _PORT.match(text, match.end()):
        return True
    around = text[max(0, match.start() - 32) : match.end() + 16]
    return any(map(_ADDRESSED.fullmatch, _WORD.findall(around.lower())))


def find_ipv6_addresses(text: str) -> list[Span]:
    """Return the IPv6 addresses of hosts: global, unique local, link-local, or mapped IPv4."""
    if "::" not in text and text.count(":") < 7:
        return []

    spans: list[Span] = []
    for match in _IPV6.finditer(text):
        # The pattern takes dots for the sake of mapped IPv4; the last may end the sentence.
        address = match[0].rstrip(".")
        if _is_ipv6(address):
            spans.append((match.start(), match.start() + len(address)))
    return spans


def _is_ipv6(written: str) -> bool:
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return False

    is_loopback = address.ipv4_mapped is not None and address.ipv4_mapped.is_loopback
    if is_loopback or not any(address in network for network in _PEOPLES_NETWORKS):
        return False

    # Two numbers around '::' are a slice in Python, as in [2000::2], unless a letter or a dot says
    # otherwise.
    groups = list(filter(None, written.split(":")))
    return len(groups) >= 3 or not all(map(str.isdigit, groups))
