"""Which IP addresses belong to the public internet."""

from __future__ import annotations

import ipaddress

# Not the public internet (IANA special-purpose registry, multicast, and what clouds put elsewhere).
# ipaddress.is_global of Python 3.11 passes several of these.
_BLOCKED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's metadata and DNS, in public space
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all other space is special or unassigned
_BLOCKED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, Teredo (2001::/32), ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: embeds any IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how IPv6-only networks reach IPv4: judged by the embedded address
_ISATAP = (0x00005EFE, 0x02005EFE)  # upper half of an interface identifier that embeds an IPv4 address


def is_public(ip: str) -> bool:
    """Return whether an IPv4 or IPv6 address, in its usual spelling, belongs to the public internet.

    IPv4-mapped and NAT64 (64:ff9b::/96) addresses are judged by the IPv4 address they embed; 6to4, Teredo,
    IPv4-compatible and scoped addresses are never public. What is not an address is not public.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_V4)
    if address.scope_id is not None:
        return False
    number = int(address)
    embedded = str(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    if address in _MAPPED or address in _NAT64:
        return is_public(embedded)
    if address not in _GLOBAL_V6 or any(address in network for network in _BLOCKED_V6):
        return False
    return (number >> 32) & 0xFFFFFFFF not in _ISATAP or is_public(embedded)
