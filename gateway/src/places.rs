//! Who is one client among network addresses, and how many connections one may have, so that it
//! cannot take all places.
//!
//! An IPv6 client is its /64, which is the least that a provider hands out; an IPv4 address in
//! IPv6 clothes is the IPv4 address. Loopback is not counted: what is on this machine is ours, or
//! a proxy that speaks for everybody.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The bits of an IPv6 address that name a client.
const CLIENT_BITS: u32 = 64;

/// Who has how many.
#[derive(Debug)]
pub struct Places {
    counts: Mutex<HashMap<IpAddr, usize>>,
    each_max: usize,
}

/// A client's place, given back when it is dropped.
#[derive(Debug)]
pub struct Taken {
    places: Arc<Places>,
    client: Option<IpAddr>,
}

impl Places {
    /// With at most `each_max` for each client; at least one.
    pub fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), each_max: each_max.max(1) })
    }

    /// A place for a connection from `address`; `None` when it has as many as it may.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Taken> {
        let client = Some(client(address)).filter(|client| !client.is_loopback());
        if let Some(client) = client {
            let mut counts = self.counts.lock();
            let count = counts.entry(client).or_insert(0);
            if *count >= self.each_max {
                return None;
            }
            *count += 1;
        }
        Some(Taken { places: self.clone(), client })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut counts = self.places.counts.lock();
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

/// The client that an address belongs to, as everything counts it.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let client = address.to_bits() >> CLIENT_BITS << CLIENT_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(client))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_client_has_its_share_and_gives_it_back() {
        let places = Places::new(2);
        let held: Vec<_> = (0..2).map(|_| places.take(ip("192.0.2.1")).unwrap()).collect();
        assert!(places.take(ip("192.0.2.1")).is_none());
        assert!(places.take(ip("::ffff:192.0.2.1")).is_none());
        assert!(places.take(ip("192.0.2.2")).is_some());
        drop(held);
        assert!(places.take(ip("192.0.2.1")).is_some());
        assert!(places.counts.lock().is_empty(), "nobody is remembered for nothing");
    }

    #[test]
    fn an_address_counts_as_its_client() {
        for (address, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::1"),
        ] {
            assert_eq!(client(ip(address)).to_string(), counted);
        }
    }

    #[test]
    fn a_network_of_one_client_counts_as_one_and_loopback_as_none() {
        let places = Places::new(1);
        let _held = places.take(ip("2001:db8::1")).unwrap();
        assert!(places.take(ip("2001:db8::ffff:2")).is_none());
        assert!(places.take(ip("2001:db8:0:1::1")).is_some());
        let local: Vec<_> = (0..9).filter_map(|_| places.take(ip("127.0.0.1"))).collect();
        assert_eq!(local.len(), 9);
        assert!(places.take(ip("::1")).is_some() && places.take(ip("::1")).is_some());
    }
}
