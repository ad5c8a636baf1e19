package main

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"helm.sh/helm/v4/pkg/chart/common"
	values "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chart "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
	"helm.sh/helm/v4/pkg/strvals"
)

// What both commands take, by Helm's names.
type helmFlags struct {
	namespace   string
	kubeVersion string
	files       []string
	sets        []string
	crds        bool
	strict      bool
}

// Two commands of Helm's, upon its own engine: template and lint. Everything that asks a cluster or a registry is left
// out, with the modules that it needs.
func newHelmCommand() *cobra.Command {
	var flags helmFlags
	helm := &cobra.Command{Use: "helm", SilenceUsage: true}
	template := &cobra.Command{
		Use:   "template NAME CHART",
		Short: "Writes the chart's manifests; values are held against values.schema.json",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return flags.template(c.OutOrStdout(), args[0], args[1])
		},
	}
	template.Flags().BoolVar(&flags.crds, "include-crds", false, "the folder crds/ too")
	check := &cobra.Command{
		Use:   "lint CHART",
		Short: "Says what is wrong with a chart; exit code 1 if an error is",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return flags.lint(c.OutOrStdout(), args[0])
		},
	}
	check.Flags().BoolVar(&flags.strict, "strict", false, "warnings count as errors")
	for _, command := range []*cobra.Command{template, check} {
		f := command.Flags()
		f.StringVarP(&flags.namespace, "namespace", "n", "default", "namespace of the release")
		f.StringVar(&flags.kubeVersion, "kube-version", "", "version of Kubernetes that the chart sees")
		f.StringArrayVarP(&flags.files, "values", "f", nil, "file with values; the last one wins")
		f.StringArrayVar(&flags.sets, "set", nil, "KEY=VALUE, after all files")
		helm.AddCommand(command)
	}
	return helm
}

func (f *helmFlags) values() (map[string]any, error) {
	merged := map[string]any{}
	for _, file := range f.files {
		read, err := common.ReadValuesFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		merged = loader.MergeMaps(merged, read)
	}
	for _, set := range f.sets {
		if err := strvals.ParseInto(set, merged); err != nil {
			return nil, fmt.Errorf("--set %s: %w", set, err)
		}
	}
	return merged, nil
}

func (f *helmFlags) capabilities() (*common.Capabilities, error) {
	known := common.DefaultCapabilities.Copy()
	if f.kubeVersion != "" {
		version, err := common.ParseKubeVersion(f.kubeVersion)
		if err != nil {
			return nil, fmt.Errorf("--kube-version %s: %w", f.kubeVersion, err)
		}
		known.KubeVersion = *version
	}
	return known, nil
}

func (f *helmFlags) template(out io.Writer, name, folder string) error {
	given, err := f.values()
	if err != nil {
		return err
	}
	known, err := f.capabilities()
	if err != nil {
		return err
	}
	read, err := loader.Load(folder)
	if err != nil {
		return err
	}
	if wants := read.Metadata.KubeVersion; wants != "" && !chart.IsCompatibleRange(wants, known.KubeVersion.String()) {
		return fmt.Errorf("the chart requires Kubernetes %s, and this is %s", wants, known.KubeVersion.Version)
	}
	if err := chart.ProcessDependencies(read, given); err != nil {
		return err
	}
	options := common.ReleaseOptions{Name: name, Namespace: f.namespace, Revision: 1, IsInstall: true}
	top, err := values.ToRenderValues(read, given, options, known)
	if err != nil {
		return err
	}
	rendered, err := engine.Render(read, top)
	if err != nil {
		return err
	}
	for file := range rendered {
		if path.Base(file) == "NOTES.txt" {
			delete(rendered, file)
		}
	}
	hooks, manifests, err := release.SortManifests(rendered, nil, release.InstallOrder)
	if err != nil {
		return err
	}
	var text strings.Builder
	if f.crds {
		for _, crd := range read.CRDObjects() {
			fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", crd.Filename, crd.File.Data)
		}
	}
	for _, manifest := range manifests {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", manifest.Name, manifest.Content)
	}
	for _, hook := range hooks {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", hook.Path, hook.Manifest)
	}
	_, err = io.WriteString(out, text.String())
	return err
}

func (f *helmFlags) lint(out io.Writer, folder string) error {
	given, err := f.values()
	if err != nil {
		return err
	}
	known, err := f.capabilities()
	if err != nil {
		return err
	}
	found := lint.RunAll(folder, given, f.namespace, lint.WithKubeVersion(&known.KubeVersion))
	for _, message := range found.Messages {
		fmt.Fprintln(out, message)
	}
	worst := support.ErrorSev
	if f.strict {
		worst = support.WarningSev
	}
	if found.HighestSeverity >= worst {
		return errors.New("the chart is not well")
	}
	return nil
}
