//! The blocklist of `policies/standalone`: untracked policy cuts what stands, and ssh stays.

use tests::{
    probe::{Got, ask, connect, exchange},
    topology::{Lab, NODE, NODE_SAYS, Proxy, SSH_SAYS, policies},
};

use crate::{answer, enforce, folder_of, run};

const THIS_SERVER: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: server, labels: {role: web}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";

#[test]
fn a_blocklist_cuts_standing_connections() {
    run("a_blocklist_cuts_standing_connections", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let standalone = policies().join("standalone");
        let read = |file: &str| std::fs::read_to_string(standalone.join(file));
        let folder = folder_of(&["standalone/outbound.yaml", "standalone/blocklist.yaml"])?;
        folder.put("server.yaml", THIS_SERVER)?;
        folder.put("web.yaml", &read("web.yaml")?.replace("[80, 443]", "[8080]"))?;
        let (mut agent, _home) = enforce(&lab, &folder)?;
        let mut attacker = connect(&lab.outside, NODE, 8080)?.expect("the server is open to everybody");
        let mut customer = connect(&lab.peer, NODE, 8080)?.expect("the server is open to everybody");
        assert_eq!(exchange(&mut attacker), answer(NODE_SAYS), "{}", agent.log());
        assert_eq!(exchange(&mut customer), answer(NODE_SAYS), "{}", agent.log());

        folder
            .put("blocklist.yaml", &read("blocklist.yaml")?.replace("198.51.100.0/24", "203.0.113.0/24"))?;
        agent.next_generation()?;
        assert_eq!(exchange(&mut attacker), Got::Silence, "cut, though it stood (D41)\n{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 22)?, answer(SSH_SAYS), "a failsafe comes before it");
        assert_eq!(exchange(&mut customer), answer(NODE_SAYS), "{}", agent.log());
        Ok(())
    });
}
