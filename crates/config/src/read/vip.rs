//! Reads `[vip.NAME]`, with all that concerns this VIP and its nodes alone.

use std::ops::Range;
use std::time::Duration;

use standin_core::plan::MAX_ADDRESSES_PER_FAMILY;
use standin_core::types::{Family, IntervalCs, Vrid};

use super::{Fields, Named, Walk};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::duration;
use crate::keys::{self, Key, Section};
use crate::model::{
    AllIneligible, Announce, ChecksumStyle, Failback, Mode, NGINX_CHECK, Node, Password, Version,
    Vip,
};

/// Longest `failback`.
const MAX_FAILBACK: Duration = Duration::from_secs(24 * 3600);

impl Walk {
    /// `None` when it has no usable id, interval or address: each was reported.
    pub(super) fn vip(
        &mut self,
        named: &Named<'_, '_>,
        nodes: &[Node],
        has_nginx: bool,
    ) -> Option<Vip> {
        let fields = &named.fields;
        self.unknown_keys(fields);
        let vrid = self.vrid(fields);
        let (addresses, address_spans) = self.vip_addresses(fields);
        self.count_addresses(fields, &addresses);
        let interface_span = fields.get(&keys::VIP_INTERFACE).map(toml::Spanned::span);
        let interface = self
            .text(fields, &keys::VIP_INTERFACE)
            .and_then(|(text, span)| self.interface_name(&text, span, "interface"));
        let version =
            if self.integer(fields, &keys::VIP_VERSION) == 2 { Version::V2 } else { Version::V3 };
        let advert_interval = self.advert_interval(fields, version);
        let password = self.password(fields, version);
        let checksum = match self.word(fields, &keys::VIP_CHECKSUM) {
            "rfc9568" => ChecksumStyle::WithoutPseudoHeader,
            _ => ChecksumStyle::WithPseudoHeader,
        };
        let mode = match self.word(fields, &keys::VIP_MODE) {
            "unicast" => Mode::Unicast,
            _ => Mode::Multicast,
        };
        let members = self.members(named, nodes);
        let heartbeat = self
            .spanned_texts(fields, &keys::VIP_HEARTBEAT)
            .into_iter()
            .filter_map(|(text, span)| self.interface_name(&text, span, "heartbeat"))
            .collect();
        let vip = Vip {
            name: named.name.clone(),
            interface,
            // A faulty one was reported; any other lets the rest be looked at.
            vrid: vrid.or(Vrid::new(1))?,
            addresses,
            address_spans,
            advert_interval: advert_interval.unwrap_or(IntervalCs::MAX),
            version,
            checksum,
            mode,
            password,
            members,
            failback: self.failback(fields),
            hold_down: self.duration(fields, &keys::VIP_HOLD_DOWN),
            checks: self.checks(fields, has_nginx),
            all_ineligible: match self.word(fields, &keys::VIP_ALL_INELIGIBLE) {
                "drop" => AllIneligible::Drop,
                _ => AllIneligible::Keep,
            },
            accept_unknown: self.boolean(fields, &keys::VIP_ACCEPT_UNKNOWN),
            witness: self.check_names(fields, &keys::VIP_WITNESS, has_nginx),
            witness_span: fields.get(&keys::VIP_WITNESS).map(toml::Spanned::span),
            heartbeat,
            heartbeat_span: fields.get(&keys::VIP_HEARTBEAT).map(toml::Spanned::span),
            announce: self.announce(fields),
            virtual_mac: self.boolean(fields, &keys::VIP_VIRTUAL_MAC),
            drain_timeout: self.duration(fields, &keys::VIP_DRAIN_TIMEOUT),
            span: named.key_span.clone(),
            vrid_span: fields
                .get(&keys::VIP_VRID)
                .map_or_else(|| named.key_span.clone(), toml::Spanned::span),
            interface_span,
        };
        self.families(&vip, nodes);
        self.no_effect(fields, &vip);
        self.equal_priorities(&vip, nodes);
        // What has no id or no address can't collide with anything.
        (vrid.is_some() && advert_interval.is_some() && !vip.addresses.is_empty()).then_some(vip)
    }

    fn vrid(&mut self, fields: &Fields<'_, '_>) -> Option<Vrid> {
        let key = keys::VIP_VRID;
        let Some(value) = fields.get(&key) else {
            self.missing(
                fields,
                &key,
                "a number that no other router on the network uses: virtual_router_id = 41",
            );
            return None;
        };
        let number = self.any_integer(value, key.name, "virtual_router_id = 41")?;
        let vrid = u8::try_from(number).ok().and_then(Vrid::new);
        if vrid.is_none() {
            self.error(
                codes::VRID,
                "virtual_router_id must be 1 to 255",
                value.span(),
                "an advert has one byte for it, and 0 is no router",
                "choose a number that nobody else on the network uses; the last part of the address is usual",
            );
        }
        vrid
    }

    fn count_addresses(
        &mut self,
        fields: &Fields<'_, '_>,
        addresses: &[standin_core::types::Prefix],
    ) {
        for family in Family::BOTH {
            let count = addresses.iter().filter(|prefix| prefix.family() == family).count();
            if count > MAX_ADDRESSES_PER_FAMILY
                && let Some(span) = fields.key_span(&keys::VIP_ADDRESSES)
            {
                self.error(
                    codes::ADDRESS_COUNT,
                    format!("{} has {count} {family} addresses, an advert carries {MAX_ADDRESSES_PER_FAMILY}", fields.title),
                    span,
                    "",
                    "make a second VIP with an id of its own for the rest",
                );
            }
        }
    }

    /// Whole centiseconds; version 2: whole seconds, and one second when not given.
    fn advert_interval(&mut self, fields: &Fields<'_, '_>, version: Version) -> Option<IntervalCs> {
        let key = keys::VIP_ADVERT_INTERVAL;
        let Some(value) = fields.get(&key) else {
            return IntervalCs::new(if version == Version::V2 { 100 } else { 10 });
        };
        let interval = self.given_duration(fields, &key)?;
        if version == Version::V2 && !interval.as_nanos().is_multiple_of(1_000_000_000) {
            self.error(
                codes::VERSION_2,
                "version 2 counts adverts in whole seconds",
                value.span(),
                format!("{} is none", duration::format(interval)),
                "write advert_interval = \"1s\", or speak version = 3 if all nodes can",
            );
            return None;
        }
        if !interval.as_nanos().is_multiple_of(10_000_000) {
            let nearest =
                Duration::from_millis(u64::try_from(interval.as_millis() / 10 * 10).unwrap_or(0));
            self.error(
                codes::INTERVAL,
                "advert_interval must be a multiple of 10ms",
                value.span(),
                "adverts count in hundredths of a second",
                format!(
                    "write \"{}\"",
                    duration::format(nearest.max(IntervalCs::MIN.as_duration()))
                ),
            );
            return None;
        }
        u16::try_from(interval.as_millis() / 10).ok().and_then(IntervalCs::new)
    }

    fn password(&mut self, fields: &Fields<'_, '_>, version: Version) -> Option<Password> {
        let value = fields.get(&keys::VIP_PASSWORD)?;
        let span = value.span();
        self.secrets.push(span.clone());
        // Not by `text`, whose message would propose the value.
        let Some(text) = value.get_ref().as_str() else {
            let help = "write password = \"...\", with quotes";
            self.error(codes::WRONG_TYPE, "password must be a text", span, "", help);
            return None;
        };
        let password = Password::new(text);
        if password.is_none() {
            let count = text.len();
            self.error(
                codes::PASSWORD,
                format!("password has {count} bytes, and must have 1 to 8"),
                span.clone(),
                "",
                "give the old peers and this file the same 8 characters; keepalived silently cuts longer ones",
            );
        }
        if version == Version::V3 {
            self.error(
                codes::PASSWORD,
                "version 3 has no password",
                span,
                "",
                "remove the line, or speak version = 2; a VRRP password travels in clear text and keeps nobody out",
            );
        }
        password
    }

    fn failback(&mut self, fields: &Fields<'_, '_>) -> Failback {
        let Some(value) = fields.get(&keys::VIP_FAILBACK) else { return Failback::Never };
        if value.get_ref().as_str() == Some("never") {
            return Failback::Never;
        }
        let wait = match value.get_ref().as_str() {
            Some(text) => duration::parse(text),
            None => self.any_duration(value, "failback", &(Duration::ZERO..=MAX_FAILBACK)),
        };
        match wait {
            Some(wait) if wait <= MAX_FAILBACK => Failback::After(wait),
            None if value.get_ref().as_str().is_none() => Failback::Never,
            Some(_) | None => {
                self.error(
                    codes::DURATION,
                    "failback must be \"never\" or a duration up to \"24h\"",
                    value.span(),
                    "",
                    "write \"60s\": the preferred node gets the VIP back once it has been eligible for that long",
                );
                Failback::Never
            }
        }
    }

    fn announce(&mut self, fields: &Fields<'_, '_>) -> Announce {
        let empty = toml::de::DeTable::new();
        let fields = self
            .sub_table(fields, &keys::VIP_ANNOUNCE, Section::VipAnnounce)
            .unwrap_or_else(|| Fields {
                section: Section::VipAnnounce,
                title: "announce".to_owned(),
                table: &empty,
                span: 0..0,
            });
        self.unknown_keys(&fields);
        Announce {
            repeat: self.small_integer(&fields, &keys::ANNOUNCE_REPEAT),
            refresh: self.duration(&fields, &keys::ANNOUNCE_REFRESH),
        }
    }

    fn checks(&mut self, fields: &Fields<'_, '_>, has_nginx: bool) -> Vec<String> {
        if fields.get(&keys::VIP_CHECKS).is_some() {
            return self.check_names(fields, &keys::VIP_CHECKS, has_nginx);
        }
        if has_nginx {
            return vec![NGINX_CHECK.to_owned()];
        }
        let warning = Diagnostic::warning(
            codes::NO_CHECKS,
            format!("nothing is checked for {}: it stays even where nginx is dead", fields.title),
        )
        .at(&self.file, fields.span.clone(), "")
        .help("add a section [nginx], or write checks = [] to say that this is meant");
        self.diagnostics.push(warning);
        Vec::new()
    }

    fn check_names(&mut self, fields: &Fields<'_, '_>, key: &Key, has_nginx: bool) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (name, span) in self.spanned_texts(fields, key) {
            if found.contains(&name) {
                self.repeated(key.name, &name, span);
                continue;
            }
            if name == NGINX_CHECK && !has_nginx {
                self.error(
                    codes::UNKNOWN_NAME,
                    format!("{} names the check \"nginx\", and the file has no [nginx]", key.name),
                    span,
                    "",
                    "add a section [nginx]; it may be empty, then everything is discovered",
                );
            } else if name != NGINX_CHECK && !self.check_names.contains(&name) {
                let mut known = self.check_names.clone();
                if has_nginx {
                    known.insert(0, NGINX_CHECK.to_owned());
                }
                self.unknown_name(key.name, "check", &name, span, &known);
            }
            found.push(name);
        }
        found
    }

    /// Every member needs an address of the family that its adverts come from.
    fn families(&mut self, vip: &Vip, nodes: &[Node]) {
        for family in Family::BOTH {
            // IPv6 multicast comes from the interface's own link-local address.
            let needed = vip.has(family) && (family == Family::V4 || vip.mode == Mode::Unicast);
            if family == Family::V6 && vip.version == Version::V2 {
                self.version_2_is_ipv4(vip);
            }
            if !needed {
                continue;
            }
            let members = nodes
                .iter()
                .filter(|node| vip.members.iter().any(|member| member.node == node.name));
            // A node without any address was reported already.
            let lacking: Vec<&Node> = members
                .filter(|node| !node.addresses.is_empty() && node.address(family).is_none())
                .collect();
            for node in lacking {
                let place = first_of(vip, family);
                let by = if vip.mode == Mode::Unicast { "unicast adverts" } else { "adverts" };
                self.error(
                    codes::FAMILY_MISSING,
                    format!("node {} has no {family} address, and [vip.{}] needs one", node.name, vip.name),
                    node.address_spans.first().cloned().unwrap_or_else(|| node.span.clone()),
                    format!("{by} for {family} addresses come from the node's own {family} address"),
                    format!("write both: address = [\"{}\", \"...\"], or leave the node out of the VIP's nodes", node.addresses.first().map(ToString::to_string).unwrap_or_default()),
                );
                self.also_at(place, "needed for this");
            }
        }
    }

    fn version_2_is_ipv4(&mut self, vip: &Vip) {
        if vip.has(Family::V6) {
            self.error(
                codes::VERSION_2,
                "version 2 has no IPv6",
                first_of(vip, Family::V6),
                "",
                "speak version = 3, or move the IPv6 addresses to a VIP of their own with version = 3",
            );
        }
    }

    fn no_effect(&mut self, fields: &Fields<'_, '_>, vip: &Vip) {
        let Some(span) = fields.key_span(&keys::VIP_CHECKSUM) else { return };
        let why = if vip.version == Version::V2 {
            "version 2 has one kind of checksum"
        } else if !vip.addresses.is_empty() && !vip.has(Family::V4) {
            "IPv6 has one kind of checksum"
        } else {
            return;
        };
        let warning = Diagnostic::warning(codes::NO_EFFECT, "checksum has no effect here")
            .at(&self.file, span, why)
            .help("remove the line");
        self.diagnostics.push(warning);
    }
}

/// Where the first address of a family stands.
fn first_of(vip: &Vip, family: Family) -> Range<usize> {
    vip.addresses
        .iter()
        .zip(&vip.address_spans)
        .find(|(prefix, _)| prefix.family() == family)
        .map_or_else(|| vip.span.clone(), |(_, span)| span.clone())
}
