//! A VIP moves between hosts, and the connections to it go on.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod lan;
#[path = "../space/mod.rs"]
mod space;

use std::net::IpAddr;

use lan::{Lan, VIP4, VIP6, switch_over};
use space::alone;
use standin_core::types::Family;
use standin_linux::forward::{self, Forwarding, Progress};

fn vips() -> [IpAddr; 2] {
    [VIP4.parse().unwrap(), VIP6.parse().unwrap()]
}

#[test]
fn the_probe_leaves_no_trace() {
    alone(|| {
        for family in Family::BOTH {
            forward::probe(family).unwrap();
        }
        assert_eq!(space::ip("-V").len(), 35);
    });
}

#[test]
fn by_hand() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        n1.hold(&vips());
        let f = n2.try_forward_to(n1, &vips(), &[443]);
        match f {
            Ok(mut f) => {
                println!("{}", n2.sh("nft list ruleset"));
                println!("{:?}", f.progress());
                f.end().unwrap();
                println!("after: {}", n2.sh("nft list ruleset"));
            }
            Err(e) => println!("REFUSED {e}"),
        }
    });
}
