"""E-mail and IP addresses in a text. Knows nothing of telephones, accounts or secrets."""

import ipaddress
import re

from tunetrail.data.privacy.spans import Span, leads_to

_EMAIL = re.compile(
    r"""(?<![\w+%-])(?<!\w\.)
    (?P<local> \w[\w+%-]*+ (?:\.[\w+%-]++)*+ ) @
    (?P<domain> (?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8} (?P<top> [^\W\d_]{2,24} | xn--[a-zA-Z0-9]{2,20} ) )
    (?![\w(@-])""",
    re.VERBOSE,
)
_VERSION = re.compile(r"v?[0-9]+\.[0-9]")
# Ends of file names and of systemd's units, which follow an @ too and are no top-level domains.
_NO_TOP_LEVEL_DOMAIN = re.compile(
    r"(?i)(?:png|jpe?g|gif|svg|webp|ico|bmp|tiff|pdf|[jt]sx?|s?css|html|json|ya?ml|toml|xml|txt|csv|md|rst|whl|tgz|gz|"
    r"tar|service|socket|timer|target|mount|slice|device|dll|exe|lib|obj)"
)
_LONGEST_LOCAL_PART = 64

# The look-behind follows the first digit: a pattern that begins with a set of characters is searched much faster.
_IPV4 = re.compile(
    r"[0-9](?<![\w.].)(?<![A-Za-z]-.)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9a-z]|-[A-Za-z])"
)
# A number of four parts is a version or a section where the words in front say so.
_NUMBERED = re.compile(
    r"(?i)(?:\b(?:versions?|ver\.?|v|releases?|rev(?:ision)?|build|firmware|sections?|sect?\.|chapters?|clauses?|"
    r"appendix|tables?|figures?|oid)\W{0,4}|§ ?|\w[=<>~!]=)$"
)
# 8.2.4.45 is as good a section; small numbers need a word that says what they are, but for the private 10.0.0.0/8.
_ADDRESSED = re.compile(
    r"ip|ipv|ips|addr|address(?:es)?|adresse|hosts?|hostname|servers?|dns|resolver|nameserver|clients?|gateway|ping|ssh|"
    r"subnet|network|remote|port|router|peers?|proxy|firewall|https?|udp|tcp|localhost"
)
_WORD = re.compile("[a-z]+")
_PORT = re.compile(r":[0-9]{2,5}\b")
_SMALL = 20
# Begins as one of the networks below does.
_IPV6 = re.compile(r"[236fF:](?<![\w:.].)[0-9A-Fa-f:.]{2,45}+(?![\w:])")
_PEOPLES_NETWORKS = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2000::/3", "fc00::/7", "fe80::/10", "64:ff9b::/96", "::ffff:0:0/96")
)


def find_emails(text: str) -> list[Span]:
    """Return the e-mail addresses with a domain of two labels or more; local parts may be of any script."""
    return (
        [match.span() for match in _EMAIL.finditer(text) if _is_email(match)] if "@" in text else []
    )


def _is_email(match: re.Match[str]) -> bool:
    return (
        len(match["local"]) <= _LONGEST_LOCAL_PART
        and _NO_TOP_LEVEL_DOMAIN.fullmatch(match["top"]) is None
        and _VERSION.match(match["domain"]) is None
        # The user of every repository: git@host:path.
        and match["local"] != "git"
    )


def find_ipv4_addresses(text: str) -> list[Span]:
    """Return the IPv4 addresses that may be someone's: not loopback, unspecified, multicast or netmasks."""
    return (
        [match.span() for match in _IPV4.finditer(text) if _is_ipv4(text, match)]
        if text.count(".") >= 3
        else []
    )


def find_ipv6_addresses(text: str) -> list[Span]:
    """Return the IPv6 addresses that may be someone's: global, unique local, link-local, or IPv4 written so."""
    if "::" not in text and text.count(":") < 7:
        return []
    ends = ((match.start(), match[0].rstrip(".")) for match in _IPV6.finditer(text))
    return [(start, start + len(found)) for start, found in ends if _is_ipv6(found)]


def _is_ipv4(text: str, match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return False
    # 0.0.0.0/8 is unspecified, 127.0.0.0/8 loopback; from 224 on come multicast, reserved addresses and netmasks.
    nobodys = address.packed[0] in (0, 127) or address.packed[0] >= 224
    if nobodys or leads_to(text, match.start(), _NUMBERED):
        return False
    is_small = max(address.packed[:3]) < _SMALL and address.packed[0] != 10
    if not is_small or _PORT.match(text, match.end()):
        return True
    around = text[max(0, match.start() - 32) : match.end() + 16]
    return any(map(_ADDRESSED.fullmatch, _WORD.findall(around.lower())))


def _is_ipv6(found: str) -> bool:
    try:
        address = ipaddress.IPv6Address(found)
    except ValueError:
        return False
    is_loopback = address.ipv4_mapped is not None and address.ipv4_mapped.is_loopback
    if is_loopback or not any(address in network for network in _PEOPLES_NETWORKS):
        return False
    # Two numbers around '::' are a slice in Python, as in [2000::2], unless a letter or a dot says otherwise.
    groups = [group for group in found.split(":") if group]
    return len(groups) >= 3 or any(not group.isdigit() for group in groups)
