# shellcheck shell=bash
# Secrets and configuration files of a stack under names with a digest of what is in them. Neither can
# change under its name, so what changed comes as a new one, and Swarm replaces the services that have
# it, and no others. Sourced by deploy.sh.

# What Docker calls the secret of each kind, the file that it will be made of (`-` is at random), its
# digest, and what is wrong with it.
declare -A secret_name=() secret_file=() secret_random=()
# shellcheck disable=SC2034
declare -A secret_problem=()

digest_of() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-12
}

random_secret() { head -c 48 /dev/urandom | base64 | tr -d '\n'; }

# KIND SERVICE VARIABLE-OF-THE-NAME VARIABLE-OF-THE-FILE, a line each; `-`: always made at random.
secret_kinds() {
    echo keys kaiwa KAIWA_KEYS_SECRET KEYS
    echo token_secret kaiwa KAIWA_TOKEN_SECRET -
    echo token_secret_next kaiwa KAIWA_TOKEN_SECRET_NEXT -
    echo token_secret_previous kaiwa KAIWA_TOKEN_SECRET_PREVIOUS -
    echo redis_password kaiwa KAIWA_REDIS_SECRET -
    echo redis_password_next redis KAIWA_REDIS_SECRET_NEXT -
    echo redis_password_previous redis KAIWA_REDIS_SECRET_PREVIOUS -
    echo alertmanager alertmanager KAIWA_ALERTMANAGER_SECRET ALERTMANAGER
    ! on TLS || echo tls haproxy KAIWA_TLS_SECRET TLS_PEM
    ! on GRAFANA || echo grafana_password grafana KAIWA_GRAFANA_SECRET GRAFANA_PASSWORD
}

# The secret that a service of the stack has for a kind.
running_secret() { # SERVICE KIND
    docker service inspect --format \
        '{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.File.Name}} {{.SecretName}}{{"\n"}}{{end}}' \
        "${STACK}_$1" 2>/dev/null | awk -v kind="$2" '
        { name = $1; sub(/.*\//, "", name) }
        name == "kaiwa_" kind { print $2 }
        kind == "token_secret" && name == "1-current" { print $2 }
        kind ~ /_next$/ && name == "2-next" { print $2 }
        kind ~ /_previous$/ && name == "3-previous" { print $2 }' || true
}

# The newest secret of a kind that was made for the stack, which may have been taken down.
newest_secret() { # KIND
    local ids
    ids=$(docker secret ls -q --filter "label=kaiwa.stack=$STACK" --filter "label=kaiwa.kind=$1" 2>/dev/null) ||
        return 0
    [ -n "$ids" ] || return 0
    # shellcheck disable=SC2086
    docker secret inspect --format '{{.CreatedAt.UnixNano}} {{.Spec.Name}}' $ids | sort -n | tail -n 1 | cut -d' ' -f2
}

secret_digest() { docker secret inspect --format '{{index .Spec.Labels "kaiwa.digest"}}' "$1" 2>/dev/null || true; }

# Which secret each kind is: what a file holds now, what was named, what runs, what was left by a stack
# that was taken down, or a new one at random. With $rotating random ones move on: the next one becomes
# the current one, and what was current still counts.
choose_secrets() {
    local kind service variable from
    while read -r kind service variable from; do
        choose_secret "$kind" "$service" "$variable" "$from"
    done < <(secret_kinds)
}

choose_secret() { # KIND SERVICE VARIABLE-OF-THE-NAME VARIABLE-OF-THE-FILE
    local kind=$1 variable=$3 file='' named=${!3:-} name running
    [ "$4" = - ] || file=${!4:-}
    if [ -z "$file$named" ] && [ "$kind" = alertmanager ] && [ -z "$(running_secret "$2" "$kind")" ]; then
        file=deploy/alertmanager/alertmanager.yml
    fi
    if [ -n "$file" ]; then
        if ! is_fit "$kind" "$file"; then return; fi
        name=${STACK}_${kind}_$(digest_of <"$file")
        secret_file[$kind]=$file
        if [ -n "$named" ]; then
            if has_secret "$named" && [ "$(secret_digest "$named")" != "${name##*_}" ]; then
                secret_problem[$kind]="the secret $named ($variable) does not hold what is in $4: leave out $variable, and the secret gets a name of its own and replaces it"
            fi
            name=$named
        fi
    elif [ -n "$named" ]; then
        name=$named
        has_secret "$named" || secret_problem[$kind]="no secret $named: $(remedy_of "$kind")"
    else
        running=$(running_secret "$2" "$kind")
        if [ "$4" = - ] && [ -n "$rotating" ]; then running=$(rotated "$2" "$kind"); fi
        name=$running
        if [ -n "$name" ]; then
            say "kept   $variable=$name"
        elif [ "$4" = - ] || [ "$kind" = grafana_password ]; then
            secret_random[$kind]=$(random_secret)
            name=${STACK}_${kind}_$(printf %s "${secret_random[$kind]}" | digest_of)
        else
            name=$(newest_secret "$kind")
            # As earlier versions called it.
            if [ -z "$name" ] && has_secret "kaiwa_$kind"; then name=kaiwa_$kind; fi
            [ -n "$name" ] || secret_problem[$kind]="no secret ${STACK}_$kind: $(remedy_of "$kind")"
        fi
    fi
    secret_name[$kind]=$name
    export "$variable=$name"
}

# What a random secret is after a rotation; nothing if it is to be made.
rotated() { # SERVICE KIND
    case $2 in
        token_secret) running_secret "$1" token_secret_next ;;
        token_secret_previous) running_secret "$1" token_secret ;;
        # Redis takes all of them, the servers have the current one alone.
        redis_password) running_secret redis redis_password_next ;;
        redis_password_previous) running_secret kaiwa redis_password ;;
    esac
}

remedy_of() {
    case $1 in
        keys) echo "kaiwa key add NAME --file keys.json, then KEYS=keys.json" ;;
        tls) echo "set TLS_PEM to a file with certificate chain and key" ;;
        *) echo "docker secret create NAME -, or leave out the variable" ;;
    esac
}

# Whether a file can be a secret of its kind.
# shellcheck disable=SC2034
is_fit() { # KIND FILE
    if [ ! -r "$2" ] || [ ! -f "$2" ]; then
        secret_problem[$1]="there is no file $2 that can be read: $(remedy_of "$1")"
    elif [ "$1" = keys ] && ! grep -q '"kaiwa-keys"' "$2"; then
        secret_problem[$1]="KEYS is no file of keys: $(remedy_of "$1")"
    elif [ "$1" = tls ] && ! { grep -q 'PRIVATE KEY' "$2" && grep -q 'BEGIN CERTIFICATE' "$2"; }; then
        secret_problem[$1]="TLS_PEM holds no certificate with its key: $(remedy_of "$1")"
    elif [ "$1" = alertmanager ] && ! grep -q '^receivers:' "$2"; then
        secret_problem[$1]="ALERTMANAGER names no receivers: begin with a copy of deploy/alertmanager/alertmanager.yml"
    elif [ ! -s "$2" ]; then
        secret_problem[$1]="the file $2 is empty"
    else
        return 0
    fi
    return 1
}

# Makes those secrets that are not there yet.
make_secrets() {
    local kind
    for kind in "${!secret_name[@]}"; do
        if has_secret "${secret_name[$kind]}"; then
            continue
        elif [ -n "${secret_file[$kind]:-}" ]; then
            make_secret "$kind" "${secret_name[$kind]}" <"${secret_file[$kind]}"
        elif [ -n "${secret_random[$kind]:-}" ]; then
            printf %s "${secret_random[$kind]}" | make_secret "$kind" "${secret_name[$kind]}"
        else
            die "there is no secret ${secret_name[$kind]}"
        fi
    done
}

make_secret() { # KIND NAME
    local content
    content=$(cat; printf x)
    if [ -n "$dry_run" ]; then
        say "would make the secret $2"
    else
        printf %s "${content%x}" | docker secret create --label "kaiwa.stack=$STACK" \
            --label "kaiwa.kind=$1" --label "kaiwa.digest=$(printf %s "${content%x}" | digest_of)" \
            "$2" - >/dev/null
        say "made the secret $2"
    fi
}

# Each configuration file of the stack's files has a variable with a digest of its own.
export_config_digests() {
    local file name stack_files
    mapfile -t stack_files < <(files | grep -v '^-c$')
    while read -r name file; do
        [ -r "$file" ] || die "there is no file $file, which the stack's files name"
        export "$name=$(digest_of <"$file")"
    done < <(awk 'match($0, /\$\{CONFIG_[A-Z_]+/) { name = substr($0, RSTART + 2, RLENGTH - 2) }
        name != "" && $1 == "file:" { print name, $2; name = "" }' "${stack_files[@]}")
}

# Secrets and configs of earlier versions that neither run nor would come back by a rollback.
forget_unused() {
    local used name
    used=$(docker service ls -q --filter "label=com.docker.stack.namespace=$STACK" | xargs docker service inspect |
        sed -n 's/.*"\(Secret\|Config\)Name": "\(.*\)".*/\2/p')
    for name in $(docker secret ls --format '{{.Name}}' --filter "label=kaiwa.stack=$STACK"); do
        grep -qxF "$name" <<<"$used" || docker secret rm "$name" >/dev/null 2>&1 || true
    done
    for name in $(docker config ls --format '{{.Name}}' --filter "label=com.docker.stack.namespace=$STACK"); do
        grep -qxF "$name" <<<"$used" || docker config rm "$name" >/dev/null 2>&1 || true
    done
}
