#!/usr/bin/env bash
# Runs Kaiwa on a Docker Swarm: ./deploy.sh COMMAND [--dry-run]
#
#   doctor      looks at everything that `up` needs, and says what to do
#   build       builds the image (KAIWA_IMAGE; with GPU=1 KAIWA_GPU_IMAGE from Dockerfile.cuda)
#   push        pushes it to its registry
#   up          makes the Swarm and the secrets if they are missing, and brings the stack up
#   update      the same for a stack that runs: a new image or new settings, replica by replica
#   status      services, replicas, the last update
#   scale N     so many replicas
#   rollback    takes the last update of the replicas back
#   logs [SERVICE]
#   down        removes the stack; secrets and models stay
#
# Locally, or on a manager elsewhere: DOCKER_HOST=ssh://user@manager ./deploy.sh up
# Settings are the variables of swarm-config.yml; those that are not given stay as they run. KAIWA_GRACE
# follows KAIWA_MAX_SECONDS. And:
#   STACK=kaiwa       name of the stack
#   GPU=1, TLS=1, GRAFANA=1   adds deploy/swarm/{gpu,tls,grafana}.yml
#   KEYS=FILE         keys (`kaiwa key add NAME --file FILE`) to make the secret of
#   TLS_PEM=FILE      certificate chain and key, for TLS=1
# Secrets go to Docker through standard input; none is printed or put on a command line.
set -euo pipefail
cd "$(dirname "$0")"

export STACK=${STACK:-kaiwa}
# The image that this command is about: built, pushed, looked for.
image=${KAIWA_IMAGE:-kaiwa}
[ -z "${GPU:-}" ] || image=${KAIWA_GPU_IMAGE:-kaiwa-cuda}
name_secrets() {
    keys_secret=${KAIWA_KEYS_SECRET:-kaiwa_keys}
    token_secret=${KAIWA_TOKEN_SECRET:-kaiwa_token_secret}
    tls_secret=${KAIWA_TLS_SECRET:-kaiwa_tls}
}
name_secrets
dry_run=

say() { printf '%s\n' "$*"; }
die() { printf 'deploy.sh: %s\n' "$*" >&2; exit 1; }

# Runs a command that changes something, or prints it.
change() {
    if [ -n "$dry_run" ]; then
        printf 'would run:'; printf ' %q' "$@"; printf '\n'
    else
        "$@"
    fi
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }

files() {
    printf '%s\n' -c swarm-config.yml
    [ -z "${GPU:-}" ] || printf '%s\n' -c deploy/swarm/gpu.yml
    [ -z "${TLS:-}" ] || printf '%s\n' -c deploy/swarm/tls.yml
    [ -z "${GRAFANA:-}" ] || printf '%s\n' -c deploy/swarm/grafana.yml
}

# A name for the configs that changes with what is in them.
config_version() {
    find deploy/haproxy deploy/prometheus deploy/grafana -type f -print0 | sort -z |
        xargs -0 cat | cksum | cut -d' ' -f1
}

swarm_state() { docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null || true; }
has_secret() { docker secret inspect "$1" >/dev/null 2>&1; }
need_engine() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
        die "no Docker engine answers${DOCKER_HOST:+ at $DOCKER_HOST}; start it, or set DOCKER_HOST"
}
need_stack() {
    need_engine
    [ "$(swarm_state)" = active ] || die "this engine is in no Swarm; run ./deploy.sh up"
    docker service inspect "${STACK}_kaiwa" >/dev/null 2>&1 ||
        die "no stack $STACK runs here; run ./deploy.sh up, or set STACK"
}

# Bytes of a size such as 512M or 16G.
bytes() {
    case $1 in
        *[gG]) say $((${1%[gG]} << 30)) ;;
        *[mM]) say $((${1%[mM]} << 20)) ;;
        *) say "$1" ;;
    esac
}

# What is not said stays as it runs: an update of one setting must not put the others back to what
# swarm-config.yml has for a stack that is new. Prints what it kept.
keep() {
    local name=$1 value=$2
    if [ -z "${!name+x}" ] && [ -n "$value" ]; then
        export "$name=$value"
        say "kept   $name=$value"
    fi
}

keep_running() {
    local service=${STACK}_kaiwa name value part target
    docker service inspect "$service" >/dev/null 2>&1 || return 0
    inspect() { docker service inspect --format "$1" "$service"; }
    value=$(inspect '{{json .Spec.TaskTemplate.Resources.Reservations}}')
    if [[ $value == *GenericResources* ]]; then keep GPU 1; fi
    value=$(docker service inspect --format '{{json .Spec}}' "${STACK}_haproxy" 2>/dev/null || true)
    if [[ $value == *KAIWA_TLS_PEM* ]]; then keep TLS 1; fi
    if docker service inspect "${STACK}_grafana" >/dev/null 2>&1; then keep GRAFANA 1; fi
    for name in 8080:KAIWA_HTTP_PORT 8443:KAIWA_HTTPS_PORT; do
        keep "${name#*:}" "$(docker service inspect --format \
            "{{range .Spec.EndpointSpec.Ports}}{{if eq .TargetPort ${name%:*}}}{{.PublishedPort}}{{end}}{{end}}" \
            "${STACK}_haproxy" 2>/dev/null || true)"
    done
    for name in KAIWA_MODEL KAIWA_SLOTS KAIWA_MAX_SECONDS; do
        value=$(inspect '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' |
            sed -n "s/^$name=//p")
        keep "$name" "$value"
    done
    for name in KAIWA_SOURCE_CALLS KAIWA_SOURCE_RATE; do
        value=$(docker service inspect --format \
            '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' \
            "${STACK}_haproxy" 2>/dev/null | sed -n "s/^$name=//p" || true)
        keep "$name" "$value"
    done
    # The names of its secrets, which tell nothing of them.
    for name in kaiwa:kaiwa_keys:KAIWA_KEYS_SECRET kaiwa:kaiwa_token_secret:KAIWA_TOKEN_SECRET \
        haproxy:kaiwa_tls:KAIWA_TLS_SECRET; do
        IFS=: read -r part target name <<<"$name"
        keep "$name" "$(docker service inspect --format \
            '{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.File.Name}} {{.SecretName}}{{"\n"}}{{end}}' \
            "${STACK}_$part" 2>/dev/null | sed -n "s/^[^ ]*${target}[^ ]* //p" || true)"
    done
    name_secrets
    # The image by its name: the digest is looked up anew.
    value=$(inspect '{{.Spec.TaskTemplate.ContainerSpec.Image}}')
    if [ -n "${GPU:-}" ]; then keep KAIWA_GPU_IMAGE "${value%@*}"; else keep KAIWA_IMAGE "${value%@*}"; fi
    keep KAIWA_REPLICAS "$(inspect '{{.Spec.Mode.Replicated.Replicas}}')"
    keep KAIWA_UPDATE_ORDER "$(inspect '{{.Spec.UpdateConfig.Order}}')"
    value=$(inspect '{{.Spec.TaskTemplate.Resources.Limits.MemoryBytes}}')
    keep KAIWA_MEMORY "$((value >> 20))M"
    value=$(inspect '{{.Spec.TaskTemplate.Resources.Limits.NanoCPUs}}')
    keep KAIWA_CPUS "$(awk -v n="$value" 'BEGIN { printf "%g", n / 1e9 }')"
    for name in haproxy:HAPROXY_IMAGE redis:REDIS_IMAGE prometheus:PROMETHEUS_IMAGE; do
        value=$(docker service inspect --format '{{.Spec.TaskTemplate.ContainerSpec.Image}}' \
            "${STACK}_${name%:*}" 2>/dev/null || true)
        keep "${name#*:}" "${value%@*}"
    done
}

# A call may last this long, so a stopping server and the balancer need it and some more.
derive_grace() {
    local longest=${KAIWA_MAX_SECONDS:-360}
    [[ $longest =~ ^[0-9]+$ ]] || die "KAIWA_MAX_SECONDS is '$longest'; give whole seconds"
    [ "$longest" -gt 0 ] || [ -n "${KAIWA_GRACE:-}" ] ||
        die "calls without a limit (KAIWA_MAX_SECONDS=0) need KAIWA_GRACE, such as 3600s"
    export KAIWA_GRACE=${KAIWA_GRACE:-$((longest + 30))s}
    export KAIWA_DRAIN_SECONDS=${KAIWA_DRAIN_SECONDS:-$((longest + 30))}
}

# Each line: ok or WRONG, what, and what to do. Status 1 if anything is wrong.
doctor() {
    local wrong=0
    ok() { say "ok     $*"; }
    bad() { say "WRONG  $*"; wrong=1; }
    if docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
        ok "Docker engine $(docker version --format '{{.Server.Version}}')${DOCKER_HOST:+ at $DOCKER_HOST}"
    else
        bad "no Docker engine answers: start it, or set DOCKER_HOST"
        return 1
    fi
    case $(swarm_state) in
        active)
            if [ "$(docker info --format '{{.Swarm.ControlAvailable}}')" = true ]; then
                ok "a manager of a Swarm"
            else
                bad "this node is no manager: set DOCKER_HOST to one"
            fi ;;
        *) ok "no Swarm yet: up makes one of this machine" ;;
    esac
    if [ "$(swarm_state)" = active ] && has_secret "$keys_secret"; then
        ok "secret $keys_secret"
    elif [ -n "${KEYS:-}" ] && [ -s "${KEYS:-}" ]; then
        ok "secret $keys_secret: up makes it of a file"
    else
        bad "no secret $keys_secret: kaiwa key add NAME --file keys.json, then KEYS=keys.json"
    fi
    if [ "$(swarm_state)" = active ] && has_secret "$token_secret"; then
        ok "secret $token_secret"
    else
        ok "secret $token_secret: up makes one at random"
    fi
    if [ -n "${TLS:-}" ]; then
        if [ "$(swarm_state)" = active ] && has_secret "$tls_secret"; then
            ok "secret $tls_secret"
        elif [ -n "${TLS_PEM:-}" ] && grep -q 'PRIVATE KEY' "${TLS_PEM:-}" 2>/dev/null; then
            ok "secret $tls_secret: up makes it of a file"
        else
            bad "no secret $tls_secret: set TLS_PEM to a file with certificate chain and key"
        fi
    fi
    if docker image inspect "$image" >/dev/null 2>&1; then
        ok "image $image"
    elif [[ $image == */* ]]; then
        ok "image $image: the nodes pull it"
    else
        bad "no image $image here: ./deploy.sh build"
    fi
    local limit total replicas
    limit=$(bytes "${KAIWA_MEMORY:-16G}")
    total=$(docker info --format '{{.MemTotal}}')
    replicas=${KAIWA_REPLICAS:-3}
    if [ "$(docker node ls -q 2>/dev/null | wc -l)" -gt 1 ]; then
        ok "several nodes: see for yourself that each has room for its replicas"
    elif [ $((limit * replicas)) -le "$total" ]; then
        ok "memory: $replicas replicas of ${KAIWA_MEMORY:-16G} fit into $((total >> 30)) GiB"
    else
        bad "memory: $replicas replicas of ${KAIWA_MEMORY:-16G} do not fit into $((total >> 30)) GiB:" \
            "lower KAIWA_REPLICAS or KAIWA_MEMORY (kaiwa plan says what a model needs)"
    fi
    if [ -n "${GPU:-}" ] && [ "$(swarm_state)" = active ]; then
        if docker node inspect self --format '{{json .Description.Resources.GenericResources}}' |
            grep -qi gpu; then
            ok "this node offers GPUs"
        else
            bad "this node offers no GPU: node-generic-resources in its daemon.json" \
                "(deploy/swarm/gpu.yml)"
        fi
    fi
    return $wrong
}

make_secret() {
    if has_secret "$1"; then
        return
    fi
    if [ -n "$dry_run" ]; then
        cat >/dev/null
        say "would make the secret $1"
    else
        docker secret create "$1" - >/dev/null
        say "made the secret $1"
    fi
}

up() {
    need_engine
    if [ "$(swarm_state)" != active ]; then
        change docker swarm init ${ADVERTISE_ADDR:+--advertise-addr "$ADVERTISE_ADDR"}
    fi
    keep_running
    if ! has_secret "$keys_secret"; then
        [ -s "${KEYS:-}" ] ||
            die "no secret $keys_secret; kaiwa key add NAME --file keys.json, then KEYS=keys.json $0 up"
        make_secret "$keys_secret" <"$KEYS"
    fi
    has_secret "$token_secret" ||
        head -c 48 /dev/urandom | base64 -w 0 | make_secret "$token_secret"
    if [ -n "${TLS:-}" ] && ! has_secret "$tls_secret"; then
        [ -s "${TLS_PEM:-}" ] || die "no secret $tls_secret; set TLS_PEM to a file with chain and key"
        make_secret "$tls_secret" <"$TLS_PEM"
    fi
    derive_grace
    CONFIG_VERSION=$(config_version)
    export CONFIG_VERSION
    local words
    mapfile -t words < <(files)
    change docker stack deploy "${words[@]}" "$STACK"
}

build() {
    need_engine
    local file=Dockerfile
    [ -z "${GPU:-}" ] || file=Dockerfile.cuda
    change docker build -f "$file" -t "$image" \
        --build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || true)" .
}

words=()
for word in "$@"; do
    case $word in
        --dry-run) dry_run=1 ;;
        -h | --help) usage; exit ;;
        -*) die "unknown option $word; see ./deploy.sh --help" ;;
        *) words+=("$word") ;;
    esac
done
set -- "${words[@]+"${words[@]}"}"

case ${1:-} in
    doctor) doctor ;;
    build) build ;;
    push) need_engine; change docker push "$image" ;;
    up) up ;;
    update) need_stack; up ;;
    status)
        need_stack
        docker stack services "$STACK"
        docker service ps "${STACK}_kaiwa" --filter desired-state=running
        docker service inspect "${STACK}_kaiwa" \
            --format '{{if .UpdateStatus}}last update: {{.UpdateStatus.State}} ({{.UpdateStatus.Message}}){{end}}' ;;
    scale)
        [[ ${2:-} =~ ^[0-9]+$ ]] || die "scale needs a number of replicas"
        need_stack
        change docker service scale --detach "${STACK}_kaiwa=$2" ;;
    rollback) need_stack; change docker service rollback --detach "${STACK}_kaiwa" ;;
    logs) need_stack; docker service logs --tail "${TAIL:-100}" "${STACK}_${2:-kaiwa}" ;;
    down)
        need_engine
        change docker stack rm "$STACK" ;;
    '') usage; exit 2 ;;
    *) die "unknown command $1; see ./deploy.sh --help" ;;
esac
