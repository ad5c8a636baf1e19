package main

// As much of a kubelet as `kubectl exec` needs: the API server sends it the request of a pod's container, and it runs the
// command, with real streams in real protocols. It starts no pods and talks to no API.
//
//	servers kubelet ADDRESS:PORT
//
// Every container is the network namespace in which it runs itself. Whoever reaches the address may run commands, so that
// belongs to a test.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

type container struct{}

// ExecInContainer runs the command to its end. A client that goes away closes stdin and ends nothing else, as with container
// runtimes: a command that must not outlive its client has to look at stdin.
func (container) ExecInContainer(_ context.Context, _, _, _ string, words []string, in io.Reader, out, errors io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	// The signal at the parent's death is that of its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.Command(words[0], words[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	command.Stdout, command.Stderr = out, errors
	if in != nil {
		stdin, err := command.StdinPipe()
		if err != nil {
			return err
		}
		// Not by the command itself: it would wait for a client that says nothing more.
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	err := command.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func (c container) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query := request.URL.Query()
	remotecommand.ServeExec(w, request, c, request.PathValue("pod"), query.Get("uid"), request.PathValue("container"), query["command"],
		options, 4*time.Hour, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func kubelet(words []string) error {
	if len(words) != 1 {
		return fmt.Errorf("usage: servers kubelet ADDRESS:PORT")
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("/exec/{namespace}/{pod}/{container}", container{})
	server := &http.Server{
		Addr:    words[0],
		Handler: routes,
		// Streams take a connection over, which HTTP/2 does not allow.
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}},
	}
	fmt.Fprintln(os.Stderr, "kubelet: listening on", words[0])
	return server.ListenAndServeTLS("", "")
}

// As a kubelet makes one for itself when it is given none; the API server does not check it then.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
