//! Networks as people write them: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::Deserialize;

/// Bits before the address of an IPv4 network in its mapped form.
const MAPPED: u32 = 96;

/// A network, IPv4 ones in their mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: Ipv6Addr,
    prefix: u32,
}

/// No network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError {
    text: String,
}

impl Network {
    /// Private networks, loopback and link-local ones: RFC 1918, RFC 4193, RFC 3927, RFC 4291.
    #[must_use]
    pub fn private() -> Vec<Self> {
        const fn four(a: u8, b: u8, prefix: u32) -> Network {
            Network {
                address: Ipv4Addr::new(a, b, 0, 0).to_ipv6_mapped(),
                prefix: MAPPED + prefix,
            }
        }
        const fn six(first: u16, last: u16, prefix: u32) -> Network {
            Network {
                address: Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last),
                prefix,
            }
        }
        vec![
            four(10, 0, 8),
            four(172, 16, 12),
            four(192, 168, 16),
            four(127, 0, 8),
            four(169, 254, 16),
            six(0, 1, 128),
            six(0xfc00, 0, 7),
            six(0xfe80, 0, 10),
        ]
    }

    /// Its first address.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Whether this address is one of its own.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let differs = address.to_bits() ^ self.address.to_bits();
        self.prefix == 0 || differs >> (128 - self.prefix) == 0
    }

    /// Bits that all of its addresses have in common, of 128.
    #[must_use]
    pub const fn prefix(&self) -> u32 {
        self.prefix
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError {
            text: text.to_owned(),
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| error())?;
        let (address, offset, bits) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED, 32),
            IpAddr::V6(address) => (address, 0, 128),
        };
        let prefix: u32 = match prefix {
            Some(prefix) => prefix.trim().parse().map_err(|_| error())?,
            None => bits,
        };
        if prefix > bits {
            return Err(error());
        }
        Ok(Self {
            address,
            prefix: offset + prefix,
        })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.to_ipv4_mapped() {
            Some(address) if self.prefix >= MAPPED => {
                write!(to, "{address}/{}", self.prefix - MAPPED)
            }
            _ => write!(to, "{}/{}", self.address, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "10.0.0.0/8",
            "192.0.2.1/32",
            "fd00::/8",
            "::/0",
            "0.0.0.0/0",
        ] {
            let network: Network = text.parse().expect("a network");
            assert_eq!(network.to_string(), text);
        }
        assert_eq!("::1".parse::<Network>().map(|one| one.prefix()), Ok(128));
        let shown: Vec<String> = Network::private().iter().map(Network::to_string).collect();
        assert_eq!(
            shown.join(" "),
            "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 169.254.0.0/16 ::1/128 fc00::/7 fe80::/10"
        );
    }

    #[test]
    fn holds_the_addresses_with_its_prefix() {
        for (network, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("fd00::/8", "fdff::1", true),
        ] {
            let network: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(network.contains(address), holds, "{network} {address}");
        }
    }

    #[test]
    fn refuses_what_is_no_network() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "example.org",
            "1.2.3.4/x",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
