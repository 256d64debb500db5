#!/bin/sh
# A signer outside Hallmark: `openssl_signer.sh KEY public` and `openssl_signer.sh KEY sign`, by the openssl program.
set -eu
key=$1
case $2 in
public)
    openssl pkey -in "$key" -pubout
    ;;
sign)
    data=$(mktemp)
    trap 'rm -f "$data" "$data.sig"' EXIT
    cat >"$data"
    if openssl pkey -in "$key" -noout -text | grep -q ED25519; then
        openssl pkeyutl -sign -inkey "$key" -rawin -in "$data" -out "$data.sig"
    else
        openssl dgst -sha256 -sign "$key" -out "$data.sig" "$data"
    fi
    openssl base64 -in "$data.sig"
    ;;
*)
    echo "unknown verb $2" >&2
    exit 64
    ;;
esac
