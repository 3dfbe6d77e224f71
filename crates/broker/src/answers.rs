//! What the broker says: result ids and the sentences users read.

use portcullis_protocol::broker::{
    AllocResultId, AllocateResourceResp, AuthResultId, AuthenticateResp, ByeResp,
    GetResourceListResp, HelloResp, ListResultId, NextAuthentication, Outcome, PCOIP, ProductInfo,
    Resource, ResourceProtocol, Response, Rest, Target,
};

use crate::{
    directory::{Desktop, Directory},
    machine::BrokerInfo,
};

/// Must never end in "Direct-Connect Broker": clients take that for an agent that is its own broker.
const PRODUCT: &str = "Portcullis Broker";

pub(crate) fn hello(info: &BrokerInfo, directory: &Directory) -> Response {
    let broker = ProductInfo {
        product_name: Some(PRODUCT.to_owned()),
        product_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        platform: Some(std::env::consts::OS.to_owned()),
        locale: Some(info.locale.clone()),
        ip_address: info.ip_address.map(|address| address.to_string()),
        hostname: Some(info.hostname.clone()),
        ..ProductInfo::default()
    };
    Response::Hello(HelloResp {
        brokers: vec![broker],
        next_authentication: Some(NextAuthentication::password(directory.domains())),
        ..HelloResp::default()
    })
}

pub(crate) fn logged_on() -> Response {
    password_answer(AuthResultId::Complete, "You are logged on.")
}

/// One answer for every cause, so that nobody learns which users exist.
pub(crate) fn wrong_name_or_password() -> Response {
    password_answer(
        AuthResultId::UnknownUsernameOrPassword,
        "The user name, the password or the domain is wrong.",
    )
}

pub(crate) fn too_busy() -> Response {
    password_answer(
        AuthResultId::AccessDenied,
        "Too many people are logging on at the moment. Try again in a minute.",
    )
}

pub(crate) fn method_not_offered(method: Option<String>) -> Response {
    Response::Authenticate(AuthenticateResp {
        method,
        ..authenticate_resp(
            AuthResultId::AccessDenied,
            "This server takes a user name and a password only.",
        )
    })
}

pub(crate) fn list<'a>(desktops: impl Iterator<Item = &'a Desktop>) -> Response {
    let resources: Vec<Resource> = desktops.map(resource).collect();
    let result = if resources.is_empty() {
        Outcome::new(
            ListResultId::NoEntitlement,
            "No desktop is assigned to you. Ask your administrator.",
        )
    } else {
        Outcome::new(ListResultId::Successful, "These are your desktops.")
    };
    Response::GetResourceList(GetResourceListResp {
        result,
        resources,
        rest: Rest::default(),
    })
}

pub(crate) fn allocated(desktop: &Desktop) -> Response {
    let target = Target {
        ip_address: Some(desktop.address().to_owned()),
        hostname: desktop.hostname().map(str::to_owned),
        ..Target::default()
    };
    allocation(
        Outcome::new(AllocResultId::Successful, "The desktop is yours."),
        Some(target),
        desktop.id(),
    )
}

/// One answer for desktops that do not exist and for those of others, so that nobody learns which exist.
pub(crate) fn not_yours(resource_id: &str) -> Response {
    allocation(
        Outcome::new(
            AllocResultId::Broker,
            "This desktop is not assigned to you. Ask your administrator.",
        ),
        None,
        resource_id,
    )
}

pub(crate) fn protocol_not_offered(resource_id: &str) -> Response {
    allocation(
        Outcome::new(
            AllocResultId::Broker,
            "Desktops here can be reached with PCoIP only.",
        ),
        None,
        resource_id,
    )
}

pub(crate) fn bye() -> Response {
    Response::Bye(ByeResp::default())
}

/// The result id of an answer, for metrics and logs.
pub(crate) fn result_of(response: &Response) -> &str {
    match response {
        Response::Authenticate(answer) => answer.result.id.as_str(),
        Response::GetResourceList(answer) => answer.result.id.as_str(),
        Response::AllocateResource(answer) => answer.result.id.as_str(),
        Response::Hello(_) | Response::Bye(_) | Response::Unknown(_) => "",
    }
}

fn password_answer(id: AuthResultId, text: &str) -> Response {
    Response::Authenticate(AuthenticateResp {
        method: Some("password".to_owned()),
        ..authenticate_resp(id, text)
    })
}

fn authenticate_resp(id: AuthResultId, text: &str) -> AuthenticateResp {
    AuthenticateResp {
        method: None,
        result: Outcome::new(id, text),
        next_authentication: None,
        rest: Rest::default(),
    }
}

fn resource(desktop: &Desktop) -> Resource {
    Resource {
        name: desktop.name().to_owned(),
        id: desktop.id().to_owned(),
        resource_type: Some("DESKTOP".to_owned()),
        session_type: Some("VDI".to_owned()),
        // The broker does not watch desktops; clients accept this.
        state: Some("UNKNOWN".to_owned()),
        protocols: vec![ResourceProtocol {
            name: PCOIP.to_owned(),
            is_default: Some("true".to_owned()),
        }],
        ..Resource::default()
    }
}

fn allocation(
    result: Outcome<AllocResultId>,
    target: Option<Target>,
    resource_id: &str,
) -> Response {
    Response::AllocateResource(AllocateResourceResp {
        result,
        target,
        resource_id: Some(resource_id.to_owned()),
        protocol: Some(PCOIP.to_owned()),
        rest: Rest::default(),
    })
}
