//! `hello` and `hello-resp`.

use super::{
    AUTHENTICATE_VIA_PASSWORD, PROBE_PRODUCT, ParseMessageError, Rest,
    fields::{Composer, Fields, plain_fields},
};
use crate::xml::Element;

/// Greeting of a client; the first message of every session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Who greets.
    pub client_info: ClientInfo,
    /// Capabilities (`caps/cap`); `None` when the element is absent, as in the probe.
    pub caps: Option<Vec<String>>,
    /// The server as the client addressed it (`server-address`).
    pub server_address: Option<ServerAddress>,
    /// The Connection Manager on the way to a broker (`pcm-info`).
    pub pcm_info: Option<ProductInfo>,
    /// Everything else.
    pub rest: Rest,
}

/// `client-info` of a hello. Fields are `None` when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// `product-name`; [`PROBE_PRODUCT`] for the probe.
    pub product_name: Option<String>,
    /// `product-version`
    pub product_version: Option<String>,
    /// `platform`
    pub platform: Option<String>,
    /// `locale`, such as `en_US`
    pub locale: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// `serial-number`
    pub serial_number: Option<String>,
    /// `device-name`
    pub device_name: Option<String>,
    /// `pcoip-unique-id`
    pub pcoip_unique_id: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// `server-address` of a hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAddress {
    /// `ip-address` the client resolved; kept as text, since it is only relayed.
    pub ip_address: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Who a server is: `broker-info` and `pcm-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductInfo {
    /// `product-name`
    pub product_name: Option<String>,
    /// `product-version`
    pub product_version: Option<String>,
    /// `platform`
    pub platform: Option<String>,
    /// `locale`
    pub locale: Option<String>,
    /// `ip-address`
    pub ip_address: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloResp {
    /// `brokers-info/broker-info`
    pub brokers: Vec<ProductInfo>,
    /// `pcm-info`, present on brokered connections.
    pub pcm_info: Option<ProductInfo>,
    /// How to authenticate.
    pub next_authentication: Option<NextAuthentication>,
    /// Everything else.
    pub rest: Rest,
}

/// `next-authentication`: methods and domains on offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextAuthentication {
    /// `authentication-methods/method`, such as `AUTHENTICATE_VIA_PASSWORD`.
    pub methods: Vec<String>,
    /// `domains/domain`
    pub domains: Vec<String>,
    /// Everything else.
    pub rest: Rest,
}

plain_fields!(ClientInfo {
    product_name: "product-name",
    product_version: "product-version",
    platform: "platform",
    locale: "locale",
    hostname: "hostname",
    serial_number: "serial-number",
    device_name: "device-name",
    pcoip_unique_id: "pcoip-unique-id",
});

plain_fields!(ServerAddress {
    ip_address: "ip-address",
    hostname: "hostname",
});

plain_fields!(ProductInfo {
    product_name: "product-name",
    product_version: "product-version",
    platform: "platform",
    locale: "locale",
    ip_address: "ip-address",
    hostname: "hostname",
});

impl Hello {
    /// Whether this is the probe a client sends before its real hello: to be answered in full, but no session starts.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.client_info.product_name.as_deref() == Some(PROBE_PRODUCT)
    }

    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let client_info = match fields.element("client-info")? {
            Some(element) => ClientInfo::read(element, fields.path())?,
            None => ClientInfo::default(),
        };
        let caps = fields.texts("caps", "cap")?;
        let server_address = match fields.element("server-address")? {
            Some(element) => Some(ServerAddress::read(element, fields.path())?),
            None => None,
        };
        let pcm_info = read_product(&mut fields, "pcm-info")?;
        Ok(Self {
            client_info,
            caps,
            server_address,
            pcm_info,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        let mut composer =
            Composer::new("hello", &self.rest).element(self.client_info.write("client-info"));
        if let Some(caps) = &self.caps {
            composer = composer.present_texts("caps", "cap", caps);
        }
        composer
            .optional_element(
                self.server_address
                    .as_ref()
                    .map(|address| address.write("server-address")),
            )
            .optional_element(self.pcm_info.as_ref().map(|info| info.write("pcm-info")))
            .finish()
    }
}

impl HelloResp {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let brokers = fields.list("brokers-info", "broker-info", |element, path| {
            let place = Element::new(element.name.clone());
            ProductInfo::read(std::mem::replace(element, place), path)
        })?;
        let brokers = fields.or_empty("brokers-info", brokers);
        let pcm_info = read_product(&mut fields, "pcm-info")?;
        let next_authentication = NextAuthentication::read_in(&mut fields)?;
        Ok(Self {
            brokers,
            pcm_info,
            next_authentication,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        let brokers = self
            .brokers
            .iter()
            .map(|info| info.write("broker-info"))
            .collect();
        Composer::new("hello-resp", &self.rest)
            .list("brokers-info", "broker-info", brokers)
            .optional_element(self.pcm_info.as_ref().map(|info| info.write("pcm-info")))
            .optional_element(
                self.next_authentication
                    .as_ref()
                    .map(NextAuthentication::write),
            )
            .finish()
    }
}

impl NextAuthentication {
    /// Offers user name and password for these domains. Both lists are written, even without a domain.
    #[must_use]
    pub fn password(domains: Vec<String>) -> Self {
        let mut rest = Rest::default();
        if domains.is_empty() {
            rest.nested.push(Element::new("domains"));
        }
        Self {
            methods: vec![AUTHENTICATE_VIA_PASSWORD.to_owned()],
            domains,
            rest,
        }
    }

    /// Takes the `next-authentication` out of a message.
    pub(super) fn read_in(message: &mut Fields) -> Result<Option<Self>, ParseMessageError> {
        let Some(element) = message.element("next-authentication")? else {
            return Ok(None);
        };
        let mut fields = Fields::open(element, message.path())?;
        Ok(Some(Self {
            methods: fields.texts_or_empty("authentication-methods", "method")?,
            domains: fields.texts_or_empty("domains", "domain")?,
            rest: fields.rest(),
        }))
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("next-authentication", &self.rest)
            .texts("authentication-methods", "method", &self.methods)
            .texts("domains", "domain", &self.domains)
            .finish()
    }
}

fn read_product(
    message: &mut Fields,
    name: &str,
) -> Result<Option<ProductInfo>, ParseMessageError> {
    match message.element(name)? {
        Some(element) => ProductInfo::read(element, message.path()).map(Some),
        None => Ok(None),
    }
}
