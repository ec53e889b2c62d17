# Rehearse a leaked key on a copy of keys/: no private key of yours is needed, and nothing of yours changes.
(
    set -eu
    work=$(mktemp -d) port=${PORT:-8417} server=
    trap 'test -z "$server" || { kill "$server"; wait "$server" || true; }; rm -rf "$work"' EXIT
    cp -R keys/public keys/history.jsonl "$work"
    export VERIFIER_KEYS="$work" VERIFIER_ISSUER=https://rehearsal.example VERIFIER_APPLICATION_ID=rehearsal
    export VERIFIER_SECRET_KEY=secret-of-the-rehearsal
    verifier keys cancel --force >"$work/log" 2>&1 || true # a pending key
    verifier keys rotate --lead 0s --force >"$work/log"    # its private key exists in the copy only
    verifier serve --port "$port" >"$work/log" 2>&1 &
    server=$!
    until verifier healthcheck --port "$port" >"$work/log" 2>&1; do kill -0 "$server"; sleep 0.1; done
    body="{\"code\":\"$(verifier token rehearsal)\",\"applicationId\":\"rehearsal\",\"secretKey\":\"$VERIFIER_SECRET_KEY\"}"
    status() {
        curl -s -o "$work/log" -w '%{http_code}' -H 'Content-Type: application/json' -d "$body" \
            "http://127.0.0.1:$port/profile"
    }
    now() { python3 -c 'import time; print(time.time())'; }
    echo "before the revocation: $(status)"
    leaked=$(verifier keys list | awk '$3 == "current" { print $1 }')
    started=$(now)
    verifier keys revoke --kid "$leaked" --reason 'rehearsal: leaked' --replace >"$work/log"
    written=$(now)
    SECONDS=0
    until test "$(status)" = 401; do
        test "$SECONDS" -lt 60 || { echo "still accepted after 60 s"; exit 1; }
        sleep 0.05
    done
    echo "after the revocation: $(status)"
    python3 -c "print('revoked in %.1f s, rejected %.1f s later' % ($written - $started, $(now) - $written))"
    verifier keys confirm --record "http://127.0.0.1:$port"
    verifier keys report --html rehearsal.html --replica "http://127.0.0.1:$port" || true # findings are on the page
)
