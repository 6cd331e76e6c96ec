#!/bin/sh
# Starts Redis for the servers of a stack: `sh start.sh [OPTION...]`, options as redis-server takes them.
#
# Redis reads a password from its command line or its configuration, where others see it, and not from a
# file of its own. So the configuration is made here, in the container's memory, with the SHA-256 digests
# of the passwords in the place of the passwords.
#
# Every file of the folder REDIS_PASSWORDS is a password, and all of them count: while a rotation is on its
# way, servers that have the former one and servers that have the next one are let in.
#
# Whoever has a password may do what Kaiwa does: read, write and run scripts on keys that begin with
# `kaiwa:`. Nobody may change the configuration, read all keys' names, empty or stop Redis, or make it
# a copy of another.
set -eu
umask 077
passwords=${REDIS_PASSWORDS:-/run/secrets/redis}
folder=${TMPDIR:-/tmp}

digests=
for file in "$passwords"/*; do
    if [ ! -s "$file" ]; then
        echo "redis: no password in $file; REDIS_PASSWORDS names a folder with a password in each file" >&2
        exit 1
    fi
    digests="$digests #$(tr -d '\r\n' <"$file" | sha256sum | cut -c1-64)"
done

# Nothing in it outlives a minute: no disk.
cat >"$folder/redis.conf" <<END
user default reset on$digests ~kaiwa:* resetchannels +@all -@admin -@dangerous +info
save ""
appendonly no
protected-mode no
dir $folder
END
exec redis-server "$folder/redis.conf" "$@"
