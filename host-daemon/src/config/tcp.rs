//! `[tcp]`: whether the API is there for other machines, and for whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::value::{Read, Value};

/// How the API is served over TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpConfig {
    /// Where; `None` for not at all.
    pub address: Option<SocketAddr>,
    /// What clients without a token may do.
    pub access: Access,
    /// Whether TLS can be done without.
    pub plain: Plain,
    /// Certificate chain, as PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM.
    pub key: Option<PathBuf>,
}

/// What clients without a token may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nothing.
    #[default]
    Token,
    /// Look.
    Read,
    /// Look and change.
    Write,
}

/// Whether TLS can be done without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plain {
    /// No.
    #[default]
    Never,
    /// On a loopback address, where every local user can listen at the port and connect to it.
    Loopback,
}

/// Reads an address with a port; empty text is none.
pub(super) fn address(value: Value<'_>) -> Read<Option<SocketAddr>> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        value.fault(
            format!("\"{text}\" is no address with a port"),
            "write an IP address and a port, like \"127.0.0.1:8765\" or \"[::]:8765\"",
        )
    })
}

impl TcpConfig {
    /// What does not go together: the option at fault, what is wrong and the way out.
    pub(super) fn trouble(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let address = self.address?;
        let loopback = address.ip().is_loopback();
        if self.certificate.is_some() != self.key.is_some() {
            let key = if self.key.is_some() { "tcp.key" } else { "tcp.certificate" };
            return Some((key, "a certificate and its key go together", "set tcp.certificate and tcp.key"));
        }
        if self.certificate.is_none() && !(loopback && self.plain == Plain::Loopback) {
            let help = if loopback {
                "set tcp.certificate and tcp.key, or ask for it without TLS by name: plain = \"loopback\""
            } else {
                "set tcp.certificate and tcp.key; without TLS only a loopback address is served"
            };
            return Some(("tcp.address", "the API is not served over TCP without TLS", help));
        }
        if self.access != Access::Token && !loopback {
            let help = "set tcp.access to \"token\", or tcp.address to a loopback address";
            return Some(("tcp.access", "other machines need a token", help));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, access: Access, plain: Plain, tls: bool) -> TcpConfig {
        let file = |name: &str| tls.then(|| PathBuf::from(name));
        let address = Some(address.parse().unwrap());
        TcpConfig { address, access, plain, certificate: file("/c.pem"), key: file("/k.pem") }
    }

    #[test]
    fn only_loopback_can_do_without_tls_and_token_and_only_by_name() {
        use Access::{Read, Token, Write};
        use Plain::{Loopback, Never};
        for (address, access, plain, tls, fault) in [
            ("127.0.0.1:1", Token, Never, false, Some("tcp.address")),
            ("127.0.0.1:1", Write, Loopback, false, None),
            ("[::1]:1", Read, Loopback, false, None),
            ("0.0.0.0:1", Token, Loopback, false, Some("tcp.address")),
            ("0.0.0.0:1", Token, Never, true, None),
            ("0.0.0.0:1", Read, Never, true, Some("tcp.access")),
            ("127.0.0.1:1", Write, Never, true, None),
        ] {
            let tcp = tcp(address, access, plain, tls);
            assert_eq!(tcp.trouble().map(|(option, ..)| option), fault, "{tcp:?}");
        }
        let half = TcpConfig { key: None, ..tcp("0.0.0.0:1", Token, Never, true) };
        assert_eq!(half.trouble().map(|(option, ..)| option), Some("tcp.certificate"));
        assert_eq!(TcpConfig::default().trouble(), None);
    }
}
