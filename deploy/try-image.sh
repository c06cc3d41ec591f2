#!/usr/bin/env bash
# Runs an image's server where no container engine does: its files read-only, as its own user, without capabilities, with
# /data and /tmp alone to write to; then asks it, and has its health checked as the image says.
# Usage: deploy/try-image.sh IMAGE      as root, with buildah and curl; BUILDAH_FORMAT=docker keeps an image's HEALTHCHECK
set -euo pipefail
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
port=${PORT:-8141}
url=http://127.0.0.1:$port
container=$(buildah from --pull-never "$1")
root=$(buildah mount "$container")
data=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait; buildah rm "$container" >/dev/null; rm -rf "$data"' EXIT

of_image() { buildah inspect --format "$1" "$container"; }
user=$(of_image '{{.Docker.Config.User}}')
mapfile -t environment < <(of_image '{{range .Docker.Config.Env}}{{println .}}{{end}}' | grep .)
mapfile -t start < <(of_image '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}{{range .Docker.Config.Cmd}}{{println .}}{{end}}' | grep .)
mapfile -t health < <(of_image '{{with .Docker.Config.Healthcheck}}{{range .Test}}{{println .}}{{end}}{{end}}' | grep .)
chown "$user" "$data"

inside() { # COMMAND: as the image's user, in a mount namespace where its root is read-only
  exec unshare --mount bash -c '
    set -eu
    root=$1 data=$2 user=$3; shift 3
    mount --bind "$root" "$root" && mount -o remount,ro,bind "$root"
    mount -t tmpfs tmpfs "$root/tmp" && mount --bind "$data" "$root/data"
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --bind /sys "$root/sys"
    exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups \
      --bounding-set=-all --inh-caps=-all --no-new-privs env --ignore-environment --chdir=/data "$@"' \
    - "$root" "$data" "$user" "${environment[@]}" AUTOCOMPRESSOR_PORT="$port" "$@"
}

(inside "${start[@]}") &
server=$!
curl --silent --retry 90 --retry-delay 1 --retry-connrefused --fail "$url/readyz"; echo
json='Content-Type: application/json'
text="$(printf 'The keeper of the lighthouse counts ships by night. %.0s' {1..40})"
id=$(curl -sf "$url/compress" -H "$json" -d "{\"text\": \"$text\"}" | tee /dev/stderr | sed -E 's/.*"id": ?"([^"]+)".*/\1/'); echo >&2
curl -sf "$url/generate" -H "$json" -d "{\"summary_ids\": [\"$id\"], \"prompt\": \"The keeper\", \"max_tokens\": 8, \"temperature\": 0}"; echo
echo "runs as $(awk '/^[UG]id:/ { print $2 }' "/proc/$server/status" | paste -sd:)," \
  "capabilities $(awk '/^CapEff:/ { print $2 }' "/proc/$server/status")"
(inside sh -c 'for place in / /opt/venv /opt/autocompressor /etc /usr/bin; do
  if touch $place/written 2>/dev/null; then echo "$place can be written to" >&2; exit 1; fi; done; touch /data/written /tmp/written')
echo "nothing but /data and /tmp can be written to"
if [ ${#health[@]} -gt 0 ]; then (inside "${health[@]:1}"); echo "its health check ends with 0"; fi
kill -TERM "$server"; wait "$server" && echo "SIGTERM ends it with 0" || echo "SIGTERM ends it with $?"
server=
