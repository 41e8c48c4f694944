//! The stable codes of everything this crate finds wrong, each with its meaning; a code never changes it.

macro_rules! codes {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $code;)*

        /// Every code with its meaning, in order.
        pub const ALL: &[(&str, &str)] = &[$(($code, $meaning)),*];
    };
}

codes! {
    SYNTAX = "E0001", "The file is no TOML at this place.";
    TOO_LARGE = "E0002", "The file is larger than any cluster file can be.";
    NOT_UTF8 = "E0003", "The file is no UTF-8 text at this place.";
    TOO_MANY = "E0004", "More faults were found than are shown.";
    UNKNOWN_KEY = "E0101", "No such key or section exists.";
    MISSING_KEY = "E0102", "A key or section that has no default is missing.";
    WRONG_TYPE = "E0103", "The value is of the wrong type.";
    WRONG_PLACE = "E0104", "The key exists, but does not apply here.";
    DURATION = "E0201", "The value is no duration.";
    RANGE = "E0202", "The value is out of its range.";
    ADDRESS = "E0203", "The value is no usable IP address.";
    WORD = "E0204", "The value is none of the words that are possible here.";
    PATH = "E0205", "The value is no absolute path.";
    NAME = "E0206", "The name can't be used.";
    URL = "E0207", "The value is no URL that can be probed.";
    EMPTY = "E0208", "The value must not be empty.";
    REPEATED = "E0209", "The same thing is said twice.";
    TIMEOUT = "E0210", "A check's timeout is too long for its interval.";
    FINGERPRINT = "E0211", "The fingerprint can't be used.";
    NOT_SHARED = "E0212", "The path can't be shared.";
    COMMAND_SHARED = "E0213", "A program that standin runs lies in a tree that the nodes share.";
    VRID = "E0301", "The virtual router id is not 1 to 255.";
    VRID_COLLIDES = "E0302", "Two VIPs have the same virtual router id on one interface.";
    ADDRESS_TWICE = "E0303", "The same address is given twice.";
    ADDRESS_OF_NODE = "E0304", "A VIP's address is a node's own.";
    ADDRESS_COUNT = "E0305", "A VIP has more addresses than an advert can carry.";
    VERSION_2 = "E0306", "VRRP version 2 can't do this.";
    PASSWORD = "E0307", "The password can't be used.";
    INTERVAL = "E0308", "The advert interval can't be sent.";
    PRIORITY = "E0309", "The priority is reserved or out of range.";
    FAMILY_MISSING = "E0310", "A node has no address of a family that the VIP needs.";
    OWNERS = "E0311", "Two nodes claim to own the addresses of one VIP.";
    TOO_MANY_NODES = "E0312", "The cluster has more nodes than standin handles.";
    TOO_MANY_VIPS = "E0313", "The cluster has more VIPs than standin handles.";
    UNKNOWN_NAME = "E0401", "The name refers to nothing in this file.";
    SELF_UNKNOWN = "E0402", "No node of the file is this machine.";
    SELF_AMBIGUOUS = "E0403", "More than one node of the file could be this machine.";
    SELF_CLONED = "E0404", "The host name is a node's, its address is not local: a cloned machine?";
    SELF_VRRP_ONLY = "E0405", "The node that this machine is runs no standin, says the file.";
    NO_VIP = "W0501", "The file has no VIP.";
    ALONE = "W0502", "The VIP has one node only, nobody stands in.";
    EQUAL_PRIORITIES = "W0503", "Equal priorities next to a node that is no standin.";
    UNUSED_CHECK = "W0504", "No VIP uses the check.";
    NO_CHECKS = "W0505", "Nothing is checked: the VIP stays with a node whose nginx is dead.";
    NO_EFFECT = "W0506", "The key has no effect here.";
    WITNESS = "W0507", "The witness says nothing of a cut: it is a node, or on the node itself.";
    HEARTBEAT = "W0508", "The heartbeat shows nothing, or keeps a VIP with a node that nobody reaches.";
    NET_OTHER_INTERFACE = "E0701", "The network configuration gives the address to another interface.";
    NET_BY_COMMAND = "E0702", "A command in the network configuration handles the address.";
    NET_FORM = "E0703", "The network configuration names the address in a form that isn't edited.";
    NET_DYNAMIC = "E0704", "The interface gets its address from elsewhere, by DHCP say.";
    NET_MENTION = "W0705", "The network configuration names the address for another purpose.";
    NET_TWICE = "W0706", "The network configuration gives the interface the new address already.";
}
