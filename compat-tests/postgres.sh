#!/usr/bin/env bash
# Runs a command beside a PostgreSQL server of its own, which RBEE_TEST_POSTGRES names, and ends the server after it:
#   compat-tests/postgres.sh cargo test --package queen-rbee --test store
# The server lies in a temporary folder. It forgets what a crash of the machine would cost it; POSTGRES_OPTIONS="-c fsync=on"
# makes it keep that, to measure with. Where there is no PostgreSQL, Debian's is installed; where that fails, the command runs
# without, unless CI=true.
set -euo pipefail

find_programs() {
    local initdb
    initdb=$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort --version-sort | tail -n 1)
    [ -n "$initdb" ] && programs=$(dirname "$(readlink -f "$initdb")")
}

install() {
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        root=(sudo --non-interactive)
        "${root[@]}" true 2>/dev/null || return 1
    fi
    command -v apt-get >/dev/null || return 1
    # No server is wanted but ours: the package would make one, and start it.
    "${root[@]}" mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" | "${root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get update -qq && apt-get install -qq --no-install-recommends postgresql >/dev/null"
}

if [ -n "${RBEE_TEST_POSTGRES:-}" ]; then
    exec "$@"
fi
if ! find_programs && ! { install >&2 && find_programs; }; then
    if [ "${CI:-}" = true ]; then
        echo "PostgreSQL is not here and could not be installed; what it is tested with would go untested" >&2
        exit 1
    fi
    echo "warning: PostgreSQL is not here and could not be installed: its tests are left out" >&2
    exec "$@"
fi

folder=$(mktemp -d /tmp/rbee-postgres-XXXXXX)
# It refuses to run as root.
as=()
if [ "$(id -u)" -eq 0 ]; then
    chown postgres: "$folder"
    as=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
stop() {
    "${as[@]}" "$programs/pg_ctl" stop --pgdata "$folder/data" --mode immediate --silent 2>/dev/null || true
    rm -rf "$folder"
}
trap stop EXIT

password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
"${as[@]}" sh -c "echo $password > $folder/password"
cd /
"${as[@]}" "$programs/initdb" --pgdata "$folder/data" --username rbee --pwfile "$folder/password" --auth scram-sha-256 \
    --encoding UTF8 --locale C --no-sync >/dev/null
for attempt in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$folder -c max_connections=400"
    "${as[@]}" "$programs/pg_ctl" start --pgdata "$folder/data" --log "$folder/log" --silent --timeout 60 \
        --options "$options -c fsync=off -c shared_buffers=128MB ${POSTGRES_OPTIONS:-}" >/dev/null 2>&1 && break
    if [ "$attempt" -eq 5 ]; then
        cat "$folder/log" >&2
        exit 1
    fi
done
cd "$OLDPWD"
export RBEE_TEST_POSTGRES="postgres://rbee:$password@127.0.0.1:$port/postgres"
echo "PostgreSQL is at $RBEE_TEST_POSTGRES" >&2
"$@"
