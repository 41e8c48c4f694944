//! The stable codes of what is wrong with a host, each with its meaning; a code never changes it.

macro_rules! codes {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub(crate) const $name: &str = $code;)*

        /// Every code with its meaning, in order.
        #[allow(dead_code, reason = "tests hold the rules to it")]
        pub(crate) const ALL: &[(&str, &str)] = &[$(($code, $meaning)),*];
    };
}

codes! {
    UNREAD_FILE = "H0001", "The cluster file can't be read.";
    NOT_LOOKED = "H0002", "A part of the host couldn't be looked at.";
    NO_RAW_SOCKETS = "H0101", "A privilege without which no VIP can be held is missing.";
    NOT_ON_TIME = "H0102", "A privilege without which adverts may be late is missing.";
    NO_REALTIME = "H0103", "The kernel refuses realtime scheduling.";
    OLD_KERNEL = "H0104", "The kernel is too old.";
    NOT_HERE = "H0201", "The node's own address is on no interface of this host.";
    NO_INTERFACE = "H0202", "The interface doesn't exist.";
    INTERFACE_DOWN = "H0203", "The interface is down, or has no carrier.";
    DUPLICATE = "H0204", "Another host has the node's own address.";
    NO_IPV6 = "H0205", "IPv6 is switched off where a VIP needs it.";
    STRICT_RP_FILTER = "H0206", "The kernel drops adverts whose source it would reach by another interface.";
    PROMOTE_SECONDARIES = "H0207", "A setting that keeps the node's own address safe can't be made.";
    STATIC_VIP = "H0208", "A VIP's address is on this host, or in its network configuration, without standin.";
    SNOOPING = "H0209", "A bridge may stop multicast adverts.";
    NO_VIRTUAL_MAC = "H0210", "A VIP can't be served from a MAC of its own.";
    SAME_ROUTER_ID = "H0301", "A stranger on the wire uses the virtual router id.";
    OTHER_VERSION = "H0302", "A node sends another version of VRRP.";
    OTHER_INTERVAL = "H0303", "A node sends at another interval.";
    OTHER_ADDRESSES = "H0304", "A node advertises other addresses.";
    OTHER_PASSWORD = "H0305", "A node sends another password.";
    FOREIGN_OWNER = "H0306", "A machine that is no node has a VIP's address.";
    SILENT_OWNER = "H0307", "A node has a VIP's address, and no advert of it is heard.";
    SENDER_UNCLEAR = "H0308", "Who sends with the virtual router id couldn't be told.";
    KEEPALIVED_SAME_ID = "H0401", "A keepalived on this host has the same virtual router id.";
    KEEPALIVED_RUNS = "H0402", "A keepalived runs on this host.";
    FIREWALL = "H0501", "The firewall drops VRRP.";
    LINK_DROPPED = "H0502", "The firewall drops the peer link.";
    NO_NGINX = "H0601", "nginx isn't found.";
    NGINX_STOPPED = "H0602", "nginx doesn't run.";
    NGINX_NOTE = "H0603", "Something about nginx wants a decision.";
    NO_PROBE = "H0604", "nginx has no listener that can be asked whether it hangs.";
    PROBE_ELSEWHERE = "H0605", "The probe's address isn't on this host.";
    NONLOCAL_BIND = "H0606", "nginx can't start while a VIP is elsewhere.";
    BAD_CONFIG = "H0607", "nginx refuses its configuration.";
    SCRIPT = "H0701", "A script can't be run.";
    NO_USER = "H0702", "A user doesn't exist.";
    LOG = "H0703", "The log has no place to go.";
    API = "H0704", "The API can't listen.";
    NEVER_PASSES = "H0705", "A check can't pass on this host.";
    KEY_EXPOSED = "H0706", "A key of this node can be read by others.";
    FILE_OPEN = "H0707", "Others than root can change the cluster file.";
    NO_STATE = "H0708", "What outlives the daemon can't be written.";
    LINK = "H0709", "The peer link can't listen.";
    NO_WITNESS = "H0710", "No witness of a VIP is seen.";
    INOTIFY = "H0801", "The inotify limits are too low for the synchronised directories.";
    UNSHARED = "H0802", "nginx's configuration names files that aren't synchronised.";
    COMMAND_SHARED = "H0803", "A program that standin runs lies in a tree that the nodes share.";
    NO_SECOND_CHANCE = "H0901", "The kernel can't hand a VIP's connections to another node.";
    COPIES_DROPPED = "H0902", "The firewall drops what is handed to another node in a switchover.";
}
