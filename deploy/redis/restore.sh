#!/bin/sh
# Makes Redis' append-only file from a backup: with `appendonly yes` Redis reads that file alone, and no dump.rdb.
# Usage: restore.sh BACKUP.rdb [DIRECTORY]      while no Redis runs on DIRECTORY, by default /data
set -eu
backup=$1 directory=${2:-/data}
socket=$directory/restoring.sock
if [ -e "$directory/appendonlydir" ]; then
  echo "$directory has an appendonlydir, which a restore would replace: move it away first" >&2
  exit 1
fi
cat "$backup" > "$directory/dump.rdb"
redis-server --port 0 --unixsocket "$socket" --dir "$directory" --save "" --appendonly no --maxmemory 0 &
server=$!
ask() { redis-cli -s "$socket" "$@"; }
# while it loads it answers, but not this
until ask ping 2>/dev/null | grep -q PONG; do
  kill -0 "$server" || exit 1
  sleep 0.2
done
ask config set appendonly yes
until [ "$(ask info persistence | grep -cE '^aof_rewrite_(in_progress|scheduled):0')" = 2 ]; do sleep 0.2; done
ask info persistence | grep -q '^aof_last_bgrewrite_status:ok'
echo "restored $(ask dbsize) keys"
ask shutdown nosave
wait "$server"
rm "$directory/dump.rdb"
