#!/usr/bin/env bash
# health.sh NAME [REST_PORT]: succeeds once a version of the model has been loaded and warmed up. It runs in the
# container, where bash and grep are and curl is not.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${2:-8501}"
printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "$1" >&3
grep -q '"AVAILABLE"' <&3
