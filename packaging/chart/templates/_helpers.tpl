{{- define "portcullis.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "portcullis.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "portcullis.name" .) -}}
{{- end -}}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "portcullis.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{- /* The settings file: what the values say, and over it what the pod is built on. */ -}}
{{- define "portcullis.settings" -}}
{{- $own := dict "kubernetes" true "pinDir" "/sys/fs/bpf/portcullis" "stateDir" "/var/lib/portcullis" -}}
{{- if ne .Values.http.address "node" -}}
{{- $_ := set $own "httpAddress" .Values.http.address -}}
{{- end -}}
{{- $_ := set $own "httpPort" .Values.http.port -}}
{{- range $key := list "node" "kubernetes" "policies" "kubeconfig" "pinDir" "bpffs" "stateDir" "httpAddress" "httpPort" -}}
{{- if hasKey $.Values.settings $key -}}
{{- fail (printf "settings.%s: the chart sets this itself; see values.yaml" $key) -}}
{{- end -}}
{{- end -}}
{{ toYaml (mergeOverwrite (deepCopy .Values.settings) $own) }}
{{- end -}}

{{- /* Whose an object of the cluster is, by kind and name: "absent" (also where nothing can be looked up, as in `helm
template`), "release" (this one's), "ours" (installed by `portcullis crds install`, kubectl or another release), else
"foreign". */ -}}
{{- define "portcullis.whose" -}}
{{- $found := lookup .apiVersion .kind "" .name -}}
{{- $owner := dig "metadata" "annotations" (dict) $found -}}
{{- $labels := dig "metadata" "labels" (dict) $found -}}
{{- $parts := list (get $labels "app.kubernetes.io/part-of") (get $labels "app.kubernetes.io/managed-by") -}}
{{- if not $found -}}
absent
{{- else if and (eq (get $owner "meta.helm.sh/release-name") .root.Release.Name) (eq (get $owner "meta.helm.sh/release-namespace") .root.Release.Namespace) -}}
release
{{- else if has "portcullis" $parts -}}
ours
{{- else -}}
foreign
{{- end -}}
{{- end -}}

{{- /* Values of an older release (`helm upgrade --reuse-values`) may lack `admission`.
Bindings of the admission policies: `deny` where the definitions of Calico's kinds are ours, else `warn`. */ -}}
{{- define "portcullis.admission" -}}
{{- $new := semverCompare ">=1.31.0-0" .Capabilities.KubeVersion.Version -}}
{{- $says := dig "policies" "auto" (.Values.admission | default dict) -}}
{{- if eq .Values.mode "detach" -}}
off
{{- else if and (not $new) (eq $says "auto") -}}
off
{{- else if and (not $new) (ne $says "off") -}}
{{- fail (printf "admission.policies: %s needs Kubernetes 1.31 or newer, and this is %s; write auto or off" $says .Capabilities.KubeVersion.Version) -}}
{{- else if ne $says "auto" -}}
{{- $says -}}
{{- else -}}
{{- $kind := dict "root" . "apiVersion" "apiextensions.k8s.io/v1" "kind" "CustomResourceDefinition" "name" "globalnetworkpolicies.projectcalico.org" -}}
{{- $whose := include "portcullis.whose" $kind -}}
{{- ternary "deny" "warn" (or (has $whose (list "release" "ours")) (and .Values.crds.calico (eq $whose "absent"))) -}}
{{- end -}}
{{- end -}}

{{- /* Whether each agent is tied to its own node; a token says its node from Kubernetes 1.30 on. */ -}}
{{- define "portcullis.ownNodeOnly" -}}
{{- $new := semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- if and (dig "ownNodeOnly" true (.Values.admission | default dict)) (eq .Values.mode "enforce") $new -}}true{{- end -}}
{{- end -}}
