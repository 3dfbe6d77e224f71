//! The Connection Manager's neighbours inside this process, and the gateway over its control link.

use std::{error::Error, net::IpAddr};

use futures_util::future::BoxFuture;
use portcullis_broker::{Broker as EmbeddedBroker, HandleError, Inquiry, SessionToken};
use portcullis_connection_manager::{
    Broker, BrokerAnswer, BrokerExchange, BrokerFailure, Gateway, GatewayFailure, GrantOrder,
    GrantedAddress,
};
use portcullis_protocol::client_hello::ServerName;
use portcullis_security_gateway::{
    AgentEndpoint, GatewayHandle, GrantRefusal, GrantRequest, Granted,
    control::{AuthorizeError, ControlClient},
};

/// Under which name the embedded broker's session travels among the cookies a Connection Manager keeps of its broker.
const SESSION: &str = "JSESSIONID";
/// What a broker over HTTPS answers to a message out of order.
const OUT_OF_ORDER: u16 = 500;
/// What a broker over HTTPS answers when it can open no session.
const UNAVAILABLE: u16 = 503;

/// The broker of this process, called instead of sent to.
pub(crate) struct InProcessBroker(pub(crate) EmbeddedBroker);

impl Broker for InProcessBroker {
    fn ask(&self, exchange: BrokerExchange) -> BoxFuture<'_, Result<BrokerAnswer, BrokerFailure>> {
        Box::pin(async move {
            let mut cookies = exchange.cookies;
            let inquiry = Inquiry {
                session: cookies.value(SESSION).and_then(SessionToken::parse),
                client: exchange.client,
                log_id: exchange.log_id,
                request: exchange.request,
            };
            let answer = self.0.handle(inquiry).await.map_err(|error| match error {
                HandleError::NoSession { .. }
                | HandleError::OutOfOrder { .. }
                | HandleError::UnknownMessage { .. } => BrokerFailure::Refused {
                    status: OUT_OF_ORDER,
                },
                HandleError::TooManySessions | HandleError::Random(_) | _ => {
                    BrokerFailure::Refused {
                        status: UNAVAILABLE,
                    }
                }
            })?;
            if let Some(session) = answer.session {
                cookies.set(SESSION, &session.expose());
            }
            Ok(BrokerAnswer {
                cookies,
                response: answer.response,
            })
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(()) })
    }
}

/// The gateway of this process.
pub(crate) struct InProcessGateway(pub(crate) GatewayHandle);

impl Gateway for InProcessGateway {
    fn authorize(
        &self,
        order: GrantOrder,
    ) -> BoxFuture<'_, Result<GrantedAddress, GatewayFailure>> {
        let granted = request(order)
            .and_then(|request| self.0.authorize(request).map(address).map_err(failure));
        Box::pin(async move { granted })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(()) })
    }
}

/// A gateway in a process of its own.
pub(crate) struct RemoteGateway(pub(crate) ControlClient);

impl Gateway for RemoteGateway {
    fn authorize(
        &self,
        order: GrantOrder,
    ) -> BoxFuture<'_, Result<GrantedAddress, GatewayFailure>> {
        Box::pin(async move {
            self.0
                .authorize(&request(order)?)
                .await
                .map(address)
                .map_err(|error| match error {
                    AuthorizeError::Refused(refusal) => failure(refusal),
                    error @ (AuthorizeError::Link(_) | _) => {
                        GatewayFailure::Unreachable(error.into())
                    }
                })
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { self.0.health().await.map(drop).map_err(Into::into) })
    }
}

/// A server name no ClientHello could be matched with is refused here, where the user can be told.
fn request(order: GrantOrder) -> Result<GrantRequest, GatewayFailure> {
    let server_name = order
        .server_name
        .map(|name| {
            ServerName::new(&name).ok_or_else(|| {
                GatewayFailure::Refused(format!("{name:?} is no server name").into())
            })
        })
        .transpose()?;
    Ok(GrantRequest {
        log_id: order.log_id,
        client: order.client,
        server_name,
        agent: AgentEndpoint {
            ip: order.agent,
            tcp_port: order.tcp_port,
            udp_port: order.udp_port,
        },
        user: order.user,
        desktop: order.desktop,
    })
}

fn address(granted: Granted) -> GrantedAddress {
    let ip: IpAddr = granted.address;
    GrantedAddress {
        ip,
        port: granted.port,
    }
}

fn failure(refusal: GrantRefusal) -> GatewayFailure {
    match refusal {
        GrantRefusal::Ambiguous => GatewayFailure::Ambiguous,
        GrantRefusal::Full => GatewayFailure::Full,
        GrantRefusal::Draining => GatewayFailure::Draining,
        other @ (GrantRefusal::AddressFamily | _) => GatewayFailure::Refused(other.into()),
    }
}
