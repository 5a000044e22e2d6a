//! Where a node is reached: `http://HOST:PORT`, one notation for `--advertise`, `--join` and the
//! member records that gossip spreads. Invariant: an [`Address`] that exists can be dialled.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The base URL of a node, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// Why text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not `http://`.
    #[error(
        "`{0}` is not a node's address: write http://HOST:PORT, for example http://127.0.0.1:8098"
    )]
    Scheme(String),
    /// More than host and port.
    #[error("`{0}` has more than a host and a port: write http://HOST:PORT and nothing after it")]
    Rest(String),
    /// No host, or characters that no host name has.
    #[error(
        "`{0}` has no usable host: write http://HOST:PORT (IPv6 in brackets: http://[::1]:8098)"
    )]
    Host(String),
    /// No port, zero, or too great.
    #[error("`{0}` has no usable port: write http://HOST:PORT with a port from 1 to 65535")]
    Port(String),
}

impl Address {
    /// The address of a socket.
    pub fn of(socket: SocketAddr) -> Self {
        Self { host: Host::Ip(socket.ip()), port: socket.port() }
    }

    /// Does it stay on this machine?
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
        }
    }

    /// What a TCP connection is made to.
    pub fn socket(&self) -> (String, u16) {
        let host = match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        };
        (host, self.port)
    }

    /// `HOST:PORT`, as in a `Host` header.
    pub fn authority(&self) -> String {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).to_string(),
            Host::Name(name) => format!("{name}:{}", self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("http://").ok_or_else(|| AddressError::Scheme(text.into()))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(AddressError::Rest(text.into()));
        }
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| AddressError::Port(text.into()))?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|&port| digits && port != 0);
        let port = port.ok_or_else(|| AddressError::Port(text.into()))?;
        let host = parse_host(host).ok_or_else(|| AddressError::Host(text.into()))?;
        Ok(Self { host, port })
    }
}

fn parse_host(host: &str) -> Option<Host> {
    if let Some(inner) = host.strip_prefix('[') {
        let ip = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Host::Ip(IpAddr::V6(ip)));
    }
    if let Ok(ip) = host.parse() {
        return Some(Host::Ip(IpAddr::V4(ip)));
    }
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let named = !host.is_empty() && host.bytes().all(usable);
    named.then(|| Host::Name(host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_as_they_are_read() {
        for (text, loopback) in [
            ("http://127.0.0.1:8098", true),
            ("http://[::1]:1", true),
            ("http://localhost:65535", true),
            ("http://10.0.0.1:8098", false),
            ("http://db-1.example:8098", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_loopback(), loopback, "{text}");
        }
        let slash: Address = "http://127.0.0.1:8098/".parse().unwrap();
        assert_eq!(slash.to_string(), "http://127.0.0.1:8098");
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_the_notation() {
        for text in [
            "127.0.0.1:8098",
            "ws://127.0.0.1:8098/peer",
            "https://127.0.0.1:8098",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+80",
            "http://127.0.0.1:65536",
            "http://:8098",
            "http://[::1:8098",
            "http://::1:8098",
            "http://a b:8098",
            "http://user@localhost:8098",
            "http://127.0.0.1:8098/peer",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("http://HOST:PORT"), "{error}");
        }
    }
}
