//! What a client says.

pub(crate) const PROBE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><pcoip-client version=\"2.1\"><hello><client-info>\
    <product-name>QueryBrokerClient</product-name><product-version>1.0</product-version><platform>PCoIP</platform>\
    <locale>en_US</locale><hostname>laptop</hostname><serial-number>00-11-22-33-44-55</serial-number>\
    <device-name>laptop</device-name><pcoip-unique-id>00-11-22-33-44-55</pcoip-unique-id></client-info></hello>\
    </pcoip-client>";

pub(crate) const HELLO: &str = "\n  <?xml version='1.0' encoding='UTF-8'?><pcoip-client version='2.1'><hello><client-info>\
    <product-name>Test Client</product-name><product-version>23.1</product-version><platform>Test OS</platform>\
    <locale>en_US</locale><hostname>laptop</hostname><serial-number>00-11-22-33-44-55</serial-number>\
    <new-thing depth=\"1\"><inner>kept</inner></new-thing></client-info><caps><cap>CAP_DIALOG_AUTHENTICATION</cap></caps>\
    <server-address><ip-address>203.0.113.1</ip-address><hostname>cm.example</hostname></server-address></hello>\
    </pcoip-client>";

pub(crate) const LIST: &str = "<pcoip-client version=\"2.1\"><get-resource-list><protocols><protocol>PCOIP</protocol></protocols>\
    <resource-types><resource-type>DESKTOP</resource-type></resource-types></get-resource-list></pcoip-client>";

pub(crate) const ALLOCATE: &str = "<pcoip-client version=\"2.1\"><allocate-resource><resource-id>d-1</resource-id>\
    <protocol>PCOIP</protocol><client-info><ip-address>192.168.1.2</ip-address><mac-address>AA-BB-CC-DD-EE-FF\
    </mac-address></client-info></allocate-resource></pcoip-client>";

pub(crate) const BYE: &str = "<pcoip-client version=\"2.1\"><bye/></pcoip-client>";

pub(crate) fn password(user: &str, password: &str) -> String {
    format!(
        "<pcoip-client version=\"2.1\"><authenticate method=\"password\"><username>{user}</username>\
         <password>{password}</password><domain>CORP</domain></authenticate></pcoip-client>"
    )
}
