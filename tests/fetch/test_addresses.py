"""Which addresses are public, in every clothing they come in."""

import ipaddress

import pytest
from bad_inputs import PRIVATE_V4, embeddings
from hypothesis import given
from hypothesis import strategies as st

from l2i_builder.fetch.addresses import is_public

BESIDE_V4 = """1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
    168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 192.0.1.1
    192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 223.255.255.255"""
SPECIAL_V6 = """:: ::1 ::2 100::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fec0::1 ff02::1 ff0e::1 2001:db8::1 2001::1
    2001:2::1 2001:10::1 2001:20::1 2001:1::1 2002::1 3fff::1 2620:4f:8000::1 5f00::1 4000::1 fe80::1%eth0
    2606:4700::1111%eth0"""


class TestPublicAddresses:
    @pytest.mark.parametrize("ip", PRIVATE_V4)
    def test_special_ipv4_is_not_public(self, ip):
        assert not is_public(ip)

    @pytest.mark.parametrize("ip", BESIDE_V4.split())
    def test_ipv4_beside_the_special_blocks_is_public(self, ip):
        assert is_public(ip)

    @pytest.mark.parametrize("ip", PRIVATE_V4)
    def test_special_ipv4_is_not_public_in_any_ipv6_clothing(self, ip):
        assert [name for name, address in embeddings(ip).items() if is_public(address)] == []

    def test_public_ipv4_is_public_where_the_network_itself_translates_it(self):
        public = {name for name, address in embeddings("8.8.8.8").items() if is_public(address)}
        assert public == {"mapped", "nat64", "isatap", "isatap, global"}

    @pytest.mark.parametrize("ip", SPECIAL_V6.split())
    def test_special_ipv6_is_not_public(self, ip):
        assert not is_public(ip)

    @pytest.mark.parametrize("ip", ["2606:4700:4700::1111", "2a00:1450:4001::200e", "2400::1"])
    def test_global_ipv6_is_public(self, ip):
        assert is_public(ip)

    @pytest.mark.parametrize(
        "text", ["", "localhost", "1.2.3", "0x7f.1", "1.2.3.4.5", "1.1.1.1/32", "[::1]", "１.1.1.1"]
    )
    def test_what_is_not_an_address_is_not_public(self, text):
        assert not is_public(text)

    @given(st.ip_addresses(v=4))
    def test_never_laxer_than_the_standard_library_in_ipv4(self, ip):
        assert not is_public(str(ip)) or ip.is_global

    @given(st.ip_addresses(v=6))
    def test_never_laxer_than_the_standard_library_in_ipv6(self, ip):
        translated = ip in ipaddress.ip_network("64:ff9b::/96") or ip.ipv4_mapped
        assert not is_public(str(ip)) or ip.is_global or translated
