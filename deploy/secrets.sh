#!/bin/sh
# Make the secrets that compose.yaml mounts, in the directory `secrets` beside it. Refuses to replace any.
#
# The directory is closed to other users of this machine; the files in it are open, since they are read in the
# containers by users that do not exist here.
set -eu
cd "$(dirname "$0")"
mkdir -m 700 secrets
cd secrets
umask 022

random() {
    openssl rand -hex "$1" | tr -d '\n'
}

random 32 > postgres_password
printf 'postgresql://paywatch:%s@postgres:5432/paywatch' "$(cat postgres_password)" > database_url

# What webhook secrets are encrypted with in the database: keep a copy apart from the backups of the database.
openssl rand -base64 32 > encryption_keys

# bitcoind learns only a salted hash of the password: rpcauth=<user>:<salt>$<HMAC-SHA256 of the password>
random 32 > bitcoind_password
salt=$(random 16)
hash=$(openssl dgst -sha256 -hmac "$salt" -r < bitcoind_password | cut -d ' ' -f 1)
printf 'rpcauth=paywatch:%s$%s\n' "$salt" "$hash" > bitcoind.conf
