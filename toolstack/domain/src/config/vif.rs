//! Network interfaces: `mac=00:16:3e:00:00:01,bridge=br0,model=e1000`, or just `user`.

use thiserror::Error;

use super::model::{Nic, Rate};
use super::nearest::nearest;
use super::rate::RateError;

/// One mistake in an interface's description.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VifError {
    /// No key or flag of this name; the nearest one.
    #[error("unrecognized argument `{text}'")]
    Unrecognized {
        /// What was written.
        text: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// `type=` is neither `ioemu` nor `vif`.
    #[error("`{0}' is no type of a network interface: expected ioemu or vif")]
    Type(String),
    /// `mac=` is no address of one network card.
    #[error("`{0}' is no mac address: expected six hexadecimal bytes of a unicast address")]
    Mac(String),
    /// `rate=` cannot be read.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A name that Linux would not give to an interface.
    #[error("`{0}' is no interface name: expected 1 to 15 letters, digits, or any of _ - . +")]
    InterfaceName(String),
    /// A value that has to be a number in a range.
    #[error("{key}={text} is not a number from {min} to {max}")]
    Number {
        /// The key.
        key: &'static str,
        /// What was written.
        text: String,
        /// The smallest number allowed.
        min: u32,
        /// The largest number allowed.
        max: u32,
    },
    /// What cannot be done here: replication, interfaces of other domains.
    #[error("`{0}' is not supported")]
    Unsupported(String),
    /// xl knows the key and does nothing about it.
    #[error("accel has no effect")]
    Accel,
    /// User networking has neither bridge nor tap.
    #[error("`user' cannot be combined with {0}")]
    UserWith(&'static str),
}

impl VifError {
    /// xl's own text for it; `None` where xl finds nothing wrong.
    #[must_use]
    pub fn xl_text(&self, source: &str) -> Option<String> {
        match self {
            Self::Unrecognized { .. } => Some(self.to_string()),
            Self::Type(_) => Some("Invalid parameter `type'.".into()),
            Self::Mac(_) => Some("Invalid parameter `mac'.".into()),
            Self::Rate(rate) => Some(format!("{source}: config parsing error in vif: {rate}")),
            Self::Accel => Some("the accel parameter for vifs is currently not supported".into()),
            Self::InterfaceName(_)
            | Self::Number { .. }
            | Self::Unsupported(_)
            | Self::UserWith(_) => None,
        }
    }

    /// Whether xl ends with status 1 because of it, instead of printing it and going on.
    #[must_use]
    pub const fn ends_xl(&self) -> bool {
        matches!(self, Self::Rate(_))
    }
}

const KEYS: &[&str] = &[
    "mac",
    "bridge",
    "type",
    "model",
    "vifname",
    "ip",
    "script",
    "gatewaydev",
    "netdev",
    "backend",
    "rate",
    "devid",
    "mtu",
    "vlan",
    "accel",
    "trusted",
    "untrusted",
    "user",
];

/// Reads one item of `vif=`: what could be understood, and what was wrong.
#[must_use]
pub fn parse(item: &str) -> (Nic, Vec<VifError>) {
    parse_words(item.split(',').filter(|word| !word.is_empty()))
}

/// Reads the words of a command line, each one key: commas belong to the value.
pub fn parse_words<'w>(words: impl IntoIterator<Item = &'w str>) -> (Nic, Vec<VifError>) {
    let mut nic = Nic::default();
    let mut errors = Vec::new();
    for word in words {
        let word = word.trim_start_matches(' ');
        if let Err(error) = take(&mut nic, word) {
            errors.push(error);
        }
    }
    if nic.user {
        for (given, key) in [
            (nic.bridge.is_some(), "bridge="),
            (nic.vifname.is_some(), "vifname="),
            (nic.script.is_some(), "script="),
        ] {
            if given {
                errors.push(VifError::UserWith(key));
            }
        }
    }
    (nic, errors)
}

fn take(nic: &mut Nic, word: &str) -> Result<(), VifError> {
    let unrecognized = || VifError::Unrecognized {
        text: word.to_owned(),
        nearest: nearest(word.split('=').next().unwrap_or_default(), KEYS.iter().copied()),
    };
    let Some((key, value)) = word.split_once('=') else {
        match word {
            "trusted" | "untrusted" => {}
            "user" => nic.user = true,
            _ => return Err(unrecognized()),
        }
        return Ok(());
    };
    match key {
        "mac" => nic.mac = Some(mac(value).ok_or_else(|| VifError::Mac(value.into()))?),
        "bridge" => nic.bridge = Some(interface(value)?),
        "vifname" => nic.vifname = Some(interface(value)?),
        "type" => {
            nic.emulated = Some(match value {
                "ioemu" => true,
                "vif" => false,
                _ => return Err(VifError::Type(value.into())),
            });
        }
        "model" => nic.model = Some(value.into()),
        "ip" => nic.ip = Some(value.into()),
        "script" => nic.script = Some(value.into()),
        "gatewaydev" | "netdev" => nic.gatewaydev = Some(value.into()),
        "vlan" => nic.vlan = Some(value.into()),
        "rate" => nic.rate = Some(Rate::parse(value)?),
        "mtu" => nic.mtu = Some(number("mtu", value, 68, 65_535)?),
        "devid" => nic.devid = Some(number("devid", value, 0, 255)?),
        "backend" if matches!(value, "" | "0" | "Domain-0") => {}
        "accel" => return Err(VifError::Accel),
        "backend" | "forwarddev" => return Err(VifError::Unsupported(word.into())),
        _ if key.starts_with("colo_") => return Err(VifError::Unsupported(word.into())),
        _ => return Err(unrecognized()),
    }
    Ok(())
}

/// Six bytes in hexadecimal with any one character between them. The address has to be a unicast
/// one: an interface with another would receive nothing.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut rest = text;
    for (index, byte) in bytes.iter_mut().enumerate() {
        if index > 0 {
            rest = &rest[rest.chars().next()?.len_utf8()..];
        }
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
        *byte = u8::from_str_radix(&rest[..digits], 16).ok()?;
        rest = &rest[digits..];
    }
    (rest.is_empty() && bytes[0] & 1 == 0).then_some(bytes)
}

fn interface(text: &str) -> Result<String, VifError> {
    let fits = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.+".contains(&b))
        && !matches!(text, "." | "..")
        && !text.starts_with('-');
    if fits { Ok(text.into()) } else { Err(VifError::InterfaceName(text.into())) }
}

fn number(key: &'static str, text: &str, min: u32, max: u32) -> Result<u32, VifError> {
    super::number::parse(text)
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| VifError::Number { key, text: text.into(), min, max })
}

/// A MAC address in the usual notation.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good(item: &str) -> Nic {
        let (nic, errors) = parse(item);
        assert_eq!(errors, [], "{item}");
        nic
    }

    #[test]
    fn an_empty_item_is_an_interface_with_every_default() {
        assert_eq!(good(""), Nic::default());
    }

    #[test]
    fn every_key_lands_in_its_field() {
        let nic = good(
            "mac=00:16:3E:01:02:ff, bridge=br0,type=ioemu,model=e1000,vifname=web0,ip=10.0.0.5,\
             script=vif-route,gatewaydev=eth0,rate=10MB/s@20ms,devid=3,mtu=9000,vlan=10p/20,\
             backend=0,untrusted",
        );
        assert_eq!(
            nic,
            Nic {
                mac: Some([0, 0x16, 0x3e, 1, 2, 0xff]),
                bridge: Some("br0".into()),
                emulated: Some(true),
                model: Some("e1000".into()),
                vifname: Some("web0".into()),
                script: Some("vif-route".into()),
                ip: Some("10.0.0.5".into()),
                mtu: Some(9000),
                rate: Some(Rate { bytes_per_interval: 200_000, interval_us: 20_000 }),
                vlan: Some("10p/20".into()),
                gatewaydev: Some("eth0".into()),
                devid: Some(3),
                user: false,
            }
        );
        assert_eq!(good("type=vif").emulated, Some(false));
        assert!(good("user").user);
    }

    #[test]
    fn a_value_may_hold_blanks_and_as_a_word_commas_too() {
        assert_eq!(good("ip=10.0.0.5 10.0.0.6").ip.as_deref(), Some("10.0.0.5 10.0.0.6"));
        let (nic, errors) = parse_words(["ip=a,b", "mtu=1500"]);
        assert_eq!((nic.ip.as_deref(), nic.mtu, errors.len()), (Some("a,b"), Some(1500), 0));
    }

    #[test]
    fn mac_addresses_take_any_separator_and_short_bytes() {
        for text in ["0:16:3e:1:2:a", "00-16-3E-01-02-0a", "00.16.3e.01.02.0a", "00ä16ä3e 01_02:0a"]
        {
            assert_eq!(mac(text), Some([0, 0x16, 0x3e, 1, 2, 10]), "{text}");
        }
        for text in [
            "",
            "00:16:3e:01:02",
            "00:16:3e:01:02:03:04",
            "00:16:3e:01:02:zz",
            "01:00:5e:00:00:01",
            "00:16:3e:01:02:0ab",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    type Row = (&'static str, fn(&VifError) -> bool);

    #[test]
    fn mistakes_are_told_and_the_rest_is_still_read() {
        let (nic, errors) = parse("brigde=br0,mtu=1400");
        assert_eq!(nic.mtu, Some(1400));
        assert_eq!(
            errors,
            [VifError::Unrecognized { text: "brigde=br0".into(), nearest: Some("bridge") }]
        );
        assert_eq!(errors[0].xl_text("f").as_deref(), Some("unrecognized argument `brigde=br0'"));
        let rows: &[Row] = &[
            ("type=netfront", |e| matches!(e, VifError::Type(_))),
            ("mac=1", |e| matches!(e, VifError::Mac(_))),
            ("rate=fast", |e| matches!(e, VifError::Rate(RateError::Invalid(_)))),
            ("bridge=a/b", |e| matches!(e, VifError::InterfaceName(_))),
            ("bridge=", |e| matches!(e, VifError::InterfaceName(_))),
            ("vifname=-x", |e| matches!(e, VifError::InterfaceName(_))),
            ("mtu=67", |e| matches!(e, VifError::Number { key: "mtu", .. })),
            ("devid=x", |e| matches!(e, VifError::Number { key: "devid", .. })),
            ("backend=net", |e| matches!(e, VifError::Unsupported(_))),
            ("colo_ft_forward=x", |e| matches!(e, VifError::Unsupported(_))),
            ("accel=x", |e| matches!(e, VifError::Accel)),
            ("user,bridge=br0", |e| matches!(e, VifError::UserWith("bridge="))),
            ("banana", |e| matches!(e, VifError::Unrecognized { nearest: None, .. })),
        ];
        for (item, is_it) in rows {
            let (_, errors) = parse(item);
            assert!(errors.len() == 1 && is_it(&errors[0]), "{item}: {errors:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(item in "\\PC{0,40}") {
            drop(parse(&item));
        }

        #[test]
        fn nothing_behind_a_key_makes_it_panic(index in 0..KEYS.len(), value in "\\PC{0,12}") {
            drop(parse(&format!("{}={value}", KEYS[index])));
        }

        #[test]
        fn a_printed_mac_reads_back(bytes in proptest::array::uniform6(0_u8..)) {
            let unicast = [bytes[0] & !1, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
            prop_assert_eq!(mac(&mac_text(unicast)), Some(unicast));
        }
    }
}
