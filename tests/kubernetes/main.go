// Real Kubernetes servers for the tests, in one binary: the first word says which.
//
//	servers etcd …            etcd
//	servers kube-apiserver …  the API server
//	servers kube-proxy …      kube-proxy
//	servers kubelet …         as much of a kubelet as `kubectl exec` needs (kubelet.go)
//	servers kubectl …         kubectl
//	servers helm …            helm's template and lint (helm.go)
//
// It is built lazily into the user's cache (tests/src/kubernetes/servers.rs) and is no part of the product.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: servers etcd|kube-apiserver|kube-proxy|kubelet|kubectl|helm [words]")
		os.Exit(2)
	}
	name := os.Args[1]
	os.Args = os.Args[1:]
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	case "kubelet":
		fmt.Fprintln(os.Stderr, kubelet(os.Args[1:]))
		os.Exit(1)
	case "helm":
		os.Exit(cli.Run(newHelmCommand()))
	default:
		fmt.Fprintf(os.Stderr, "no program %q: etcd, kube-apiserver, kube-proxy, kubelet, kubectl or helm\n", name)
		os.Exit(2)
	}
}
