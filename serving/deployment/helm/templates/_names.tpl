{{/* Addresses of the model servers, one for each replica: funnels share out their calls. */}}
{{- define "watchnext.modelServers" -}}
{{- $name := printf "%s-model-server" .Release.Name -}}
{{- range $number := until (int .Values.modelServer.replicas) -}}
{{- if $number }},{{ end }}{{ $name }}-{{ $number }}.{{ $name }}:8500
{{- end -}}
{{- end -}}
