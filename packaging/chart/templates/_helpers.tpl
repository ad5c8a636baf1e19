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
