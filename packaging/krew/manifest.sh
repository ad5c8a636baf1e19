#!/bin/sh
# Prints the manifest with which krew installs `kubectl portcullis`.
#
#   packaging/krew/manifest.sh v0.1.0 https://HOST/portcullis-v0.1.0-linux-amd64.tar.gz ARCHIVE > portcullis.yaml
#   kubectl krew install --manifest=portcullis.yaml --archive=ARCHIVE
#
# ARCHIVE is the file that will be found at the address: a tar.gz with the program `portcullis` and LICENSE-APACHE on top.
set -eu
if [ $# -ne 3 ]; then
    echo "usage: $0 VERSION URI ARCHIVE" >&2
    exit 2
fi
tar -tzf "$3" | grep -qx '\(\./\)\{0,1\}portcullis' || { echo "$3: no program \`portcullis\` on top" >&2; exit 1; }
sum=$(sha256sum "$3")
cat <<MANIFEST
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: portcullis
spec:
  version: $1
  shortDescription: What every node's host firewall enforces and refuses
  description: |
    Asks the Portcullis agents of all nodes: what is in force and what is not (status), what policy does with a packet and
    which rule decides (explain), and what is refused at the moment (observe).
  caveats: |
    \`observe\` and \`explain\` run a program in the agents' pods (kubectl exec); \`status\` reads NodePolicyStatus objects.
    Roles for both are in packaging/kubernetes/viewer.yaml.
  platforms:
  - selector:
      matchLabels: {os: linux, arch: amd64}
    uri: $2
    sha256: ${sum%% *}
    bin: portcullis
    files:
    - {from: portcullis, to: .}
    - {from: LICENSE-APACHE, to: .}
MANIFEST
