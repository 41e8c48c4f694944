//! Kernel settings, changed and put back in namespaces of their own.

mod space;

use std::io::ErrorKind;

use space::{alone, ip, wire};
use standin_linux::sysctl::{self, Change, Settings};

const ARP_IGNORE: &str = "net/ipv4/conf/va/arp_ignore";
const PROMOTE: &str = "net/ipv4/conf/va/promote_secondaries";

#[test]
fn changed_settings_are_put_back() {
    alone(|| {
        wire();
        let mut settings = Settings::new();
        assert!(settings.set(ARP_IGNORE, "1").unwrap());
        assert!(settings.set(PROMOTE, "1").unwrap());
        assert!(settings.set(ARP_IGNORE, "2").unwrap());
        assert!(!settings.set(PROMOTE, "1").unwrap(), "it had the value already");
        assert_eq!(sysctl::read(ARP_IGNORE).unwrap(), "2");
        let expected = [(ARP_IGNORE, "2"), (PROMOTE, "1")].map(|(path, new)| Change {
            path: path.to_owned(),
            old: "0".to_owned(),
            new: new.to_owned(),
        });
        assert_eq!(settings.changes(), expected);
        assert!(settings.undo().is_empty());
        assert_eq!(settings.changes(), []);
        assert_eq!(sysctl::read(ARP_IGNORE).unwrap(), "0");
        assert_eq!(sysctl::read(PROMOTE).unwrap(), "0");
    });
}

#[test]
fn what_had_the_value_already_is_not_undone() {
    alone(|| {
        wire();
        sysctl::write(ARP_IGNORE, "1").unwrap();
        let mut settings = Settings::new();
        assert!(!settings.set(ARP_IGNORE, "1").unwrap());
        assert!(settings.undo().is_empty());
        assert_eq!(sysctl::read(ARP_IGNORE).unwrap(), "1");
    });
}

#[test]
fn a_value_that_somebody_else_changed_meanwhile_stays() {
    alone(|| {
        wire();
        let mut settings = Settings::new();
        settings.set(ARP_IGNORE, "1").unwrap();
        sysctl::write(ARP_IGNORE, "3").unwrap();
        assert!(settings.undo().is_empty());
        assert_eq!(sysctl::read(ARP_IGNORE).unwrap(), "3");
    });
}

#[test]
fn a_setting_that_went_with_its_link_is_forgotten() {
    alone(|| {
        wire();
        let mut settings = Settings::new();
        settings.set(ARP_IGNORE, "1").unwrap();
        ip("link del va");
        assert!(settings.undo().is_empty());
        assert_eq!(settings.changes(), []);
    });
}

#[test]
fn the_changes_of_a_process_that_died_are_undone_by_the_next() {
    alone(|| {
        wire();
        let mut dead = Settings::new();
        dead.set(ARP_IGNORE, "1").unwrap();
        let mut next = Settings::resume(dead.changes().to_vec());
        assert!(next.undo().is_empty());
        assert_eq!(sysctl::read(ARP_IGNORE).unwrap(), "0");
    });
}

#[test]
fn a_link_whose_name_has_a_dot_has_settings() {
    alone(|| {
        ip("link add va.5 type veth peer name vb");
        let mut settings = Settings::new();
        assert!(settings.set("net/ipv4/conf/va.5/arp_ignore", "1").unwrap());
        assert!(settings.undo().is_empty());
    });
}

#[test]
fn a_value_of_several_numbers_is_the_same_however_it_is_spaced() {
    alone(|| {
        let path = "net/ipv4/tcp_rmem";
        let before = sysctl::read(path).unwrap();
        let spaced = before.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_ne!(before, spaced);
        assert!(!Settings::new().set(path, &spaced).unwrap());
    });
}

#[test]
fn a_setting_that_cannot_be_says_which_one_and_stays_unchanged() {
    alone(|| {
        wire();
        let missing = sysctl::read("net/ipv4/conf/nowhere/arp_ignore").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("/proc/sys/net/ipv4/conf/nowhere"), "{missing}");
        let mut settings = Settings::new();
        let refused = settings.set(ARP_IGNORE, "much").unwrap_err();
        assert!(refused.to_string().contains("/proc/sys/net/ipv4/conf/va"), "{refused}");
        assert_eq!(settings.changes(), []);
        for outside in ["../self/comm", "/etc/hostname", "", "net/../../self/comm"] {
            let error = sysctl::write(outside, "x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{outside}");
        }
    });
}
