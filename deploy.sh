#!/usr/bin/env bash
# Runs Kaiwa on a Docker Swarm: ./deploy.sh COMMAND [--dry-run]
#
#   doctor      looks at everything that `up` needs, and says what to do
#   build       builds the image (KAIWA_IMAGE; with GPU=1 KAIWA_GPU_IMAGE from Dockerfile.cuda)
#   push        pushes it to its registry
#   up          checks as `doctor` does, makes the Swarm and the secrets if they are missing, and
#               brings the stack up
#   update      the same for a stack that runs: a new image, new settings, keys or certificates,
#               replica by replica; services to which nothing changed go on
#   rotate      `update`, with new secrets in the place of those that were made at random; tokens that
#               were signed with the old one go on counting
#   status      services, replicas, the last update
#   scale N     so many replicas
#   rollback    takes the last update of the replicas back
#   logs [SERVICE]
#   down        removes the stack when its calls have ended; secrets and models stay
#
# Locally, or on a manager elsewhere: DOCKER_HOST=ssh://user@manager ./deploy.sh up
# Settings are the variables of swarm-config.yml; those that are not given stay as they run. KAIWA_GRACE
# follows KAIWA_MAX_SECONDS. And:
#   STACK=kaiwa       name of the stack
#   GPU=1, TLS=1, GRAFANA=1   adds deploy/swarm/{gpu,tls,grafana}.yml
#   KEYS=FILE         keys (`kaiwa key add NAME --file FILE`); what changed in it is rolled out
#   TLS_PEM=FILE      certificate chain and key, for TLS=1; the same
#   ALERTMANAGER=FILE     who is told of alerts; begin with a copy of deploy/alertmanager/alertmanager.yml
#   GRAFANA_PASSWORD=FILE   of Grafana's `admin`, for GRAFANA=1; without it one at random
#   IMAGES=FILE       images by their digests, a line NAME_IMAGE=NAME@sha256:... each, as
#                     `scripts/release --images` writes it; what is set otherwise counts before it
#   ADVERTISE_ADDR=IP     of this machine, for a Swarm that `up` makes
#   FORCE=1           `up` and `update` go on although a check failed
#   BASE, CUDA_BUILD, CUDA_RUN, KAIWA_CUDA_ARCHITECTURES, CUDA_COMPUTE_CAP, RUST, PIP_OPTIONS
#                                          are handed to `build`
# Secrets go to Docker through standard input; none is printed or put on a command line.
set -euo pipefail
# Files that are named from where the caller is.
for name in KEYS TLS_PEM GRAFANA_PASSWORD ALERTMANAGER IMAGES; do
    if [[ -n ${!name:-} && ${!name} != /* ]]; then export "$name=$PWD/${!name}"; fi
done
cd "$(dirname "$0")"

export STACK=${STACK:-kaiwa}
dry_run=
rotating=

say() { printf '%s\n' "$*"; }
die() { printf 'deploy.sh: %s\n' "$*" >&2; exit 1; }

# Whether a switch such as GPU is on.
on() {
    case ${!1:-} in
        '' | 0 | no | false | off) return 1 ;;
    esac
}

# Images that a file names.
if [ -n "${IMAGES:-}" ]; then
    [ -r "$IMAGES" ] || die "there is no file $IMAGES (IMAGES) that can be read"
    while IFS= read -r line || [ -n "$line" ]; do
        [[ -z $line || $line == \#* ]] && continue
        [[ $line =~ ^[A-Z]+(_[A-Z]+)*_IMAGE=[a-z0-9][a-zA-Z0-9._:/-]*@sha256:[0-9a-f]{64}$ ]] ||
            die "IMAGES has a line that is no image by its digest: $line"
        name=${line%%=*}
        [ -n "${!name:-}" ] || export "${line?}"
    done <"$IMAGES"
fi

# The image that is built, pushed and looked for.
name_image() {
    image=${KAIWA_IMAGE:-kaiwa}
    ! on GPU || image=${KAIWA_GPU_IMAGE:-kaiwa-cuda}
}
name_image

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
    ! on GPU || printf '%s\n' -c deploy/swarm/gpu.yml
    ! on TLS || printf '%s\n' -c deploy/swarm/tls.yml
    ! on GRAFANA || printf '%s\n' -c deploy/swarm/grafana.yml
}

# shellcheck source=deploy/digests.sh
. deploy/digests.sh

swarm_state() { docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null || true; }
count_nodes() { { docker node ls -q 2>/dev/null || true; } | wc -l; }
has_secret() { docker secret inspect "$1" >/dev/null 2>&1; }
has_service() { docker service inspect "${STACK}_$1" >/dev/null 2>&1; }
need_engine() {
    command -v docker >/dev/null || die "the program docker is not installed"
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
        die "no Docker engine answers${DOCKER_HOST:+ at $DOCKER_HOST}; start it, or set DOCKER_HOST"
}
need_stack() {
    need_engine
    [ "$(swarm_state)" = active ] || die "this engine is in no Swarm; run ./deploy.sh up"
    has_service kaiwa || die "no stack $STACK runs here; run ./deploy.sh up, or set STACK"
}

# Megabytes of a size as Docker reads it, such as 512M, 1.5g or 16GB.
megabytes() {
    awk -v text="${1,,}" 'BEGIN {
        power["k"] = 1; power["m"] = 2; power["g"] = 3; power["t"] = 4
        unit = text; gsub(/[0-9.]/, "", unit)
        printf "%d", text * 1024 ^ power[substr(unit, 1, 1)] / 1048576 }'
}

# Settings that Docker would take wrongly, or refuse in words that do not say which it means.
check_values() {
    local name
    well() { # NAME PATTERN REMEDY
        [[ -z ${!1:-} || ${!1} =~ ^($2)$ ]] || die "$1 is '${!1}'; $3"
    }
    well STACK '[A-Za-z0-9][A-Za-z0-9_-]*' 'use letters, digits, - and _'
    for name in KAIWA_SLOTS KAIWA_SOURCE_CALLS KAIWA_SOURCE_RATE KAIWA_DRAIN_SECONDS \
        KAIWA_MAX_TASKS KAIWA_MAX_CONNECTIONS KAIWA_EDGES KAIWA_BALANCERS KAIWA_EDGE_SECONDS \
        KAIWA_EDGE_CONNECTIONS; do
        well "$name" '[1-9][0-9]{0,8}' 'give a whole number, at least 1'
    done
    well KAIWA_REPLICAS '0|[1-9][0-9]{0,5}' 'give a whole number'
    well KAIWA_MAX_SECONDS '0|[1-9][0-9]{0,7}' 'give whole seconds'
    well KAIWA_GRACE '([0-9]+(h|m|s))+' 'give a time such as 390s'
    for name in KAIWA_CPUS KAIWA_HAPROXY_CPUS; do
        well "$name" '[0-9]+(\.[0-9]+)?' 'give a number of processors'
    done
    well KAIWA_MEMORY '[0-9]+(\.[0-9]+)?([kmgt]b?|[KMGT]B?)?' 'give a size such as 512M or 16G'
    well KAIWA_UPDATE_ORDER 'start-first|stop-first' 'use start-first or stop-first'
    well KAIWA_REDIS_DOWN 'open|closed' 'use open or closed'
    for name in KAIWA_HTTP_PORT KAIWA_HTTPS_PORT; do
        well "$name" '[1-9][0-9]{0,4}' 'give a port, 1 to 65535'
        [ "${!name:-1}" -le 65535 ] || die "$name is '${!name}'; give a port, 1 to 65535"
    done
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
    local service=${STACK}_kaiwa name value
    has_service kaiwa || return 0
    inspect() { docker service inspect --format "$1" "$service"; }
    value=$(inspect '{{json .Spec.TaskTemplate.Resources.Reservations}}')
    if [[ $value == *GenericResources* ]]; then keep GPU 1; fi
    value=$(docker service inspect --format '{{json .Spec}}' "${STACK}_haproxy" 2>/dev/null || true)
    if [[ $value == *KAIWA_TLS_PEM* ]]; then keep TLS 1; fi
    if has_service grafana; then keep GRAFANA 1; fi
    for name in 8080:KAIWA_HTTP_PORT 8443:KAIWA_HTTPS_PORT; do
        keep "${name#*:}" "$(docker service inspect --format \
            "{{range .Spec.EndpointSpec.Ports}}{{if eq .TargetPort ${name%:*}}}{{.PublishedPort}}{{end}}{{end}}" \
            "${STACK}_edge" 2>/dev/null || true)"
    done
    # A grace of its own goes with the longest call that it was given for.
    if [ -z "${KAIWA_MAX_SECONDS+x}" ]; then
        value=$(inspect '{{.Spec.TaskTemplate.ContainerSpec.StopGracePeriod}}')
        keep KAIWA_GRACE "${value##*[!0-9hms]*}"
    fi
    for name in KAIWA_REVISION KAIWA_MODEL KAIWA_SLOTS KAIWA_MAX_SECONDS KAIWA_QUANTIZE \
        KAIWA_KV_DTYPE KAIWA_STEP_BUDGET_MS KAIWA_REDIS_DOWN KAIWA_START_SECONDS; do
        # A revision is one of its own model.
        if [ "$name" = KAIWA_REVISION ] && [ -n "${KAIWA_MODEL:-}" ]; then continue; fi
        value=$(inspect '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' |
            sed -n "s/^$name=//p")
        keep "$name" "$value"
    done
    for name in KAIWA_SOURCE_CALLS KAIWA_SOURCE_RATE KAIWA_MAX_TASKS KAIWA_MAX_CONNECTIONS; do
        value=$(docker service inspect --format \
            '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' \
            "${STACK}_haproxy" 2>/dev/null | sed -n "s/^$name=//p" || true)
        keep "$name" "$value"
    done
    # The image by its name: what the name means now is looked up anew.
    value=$(inspect '{{.Spec.TaskTemplate.ContainerSpec.Image}}' | sed -E 's/@.*//; s/-id-[0-9a-f]{12}$//')
    if on GPU; then keep KAIWA_GPU_IMAGE "$value"; else keep KAIWA_IMAGE "$value"; fi
    keep KAIWA_REPLICAS "$(inspect '{{.Spec.Mode.Replicated.Replicas}}')"
    keep KAIWA_UPDATE_ORDER "$(inspect '{{.Spec.UpdateConfig.Order}}')"
    value=$(inspect '{{.Spec.TaskTemplate.Resources.Limits.MemoryBytes}}')
    keep KAIWA_MEMORY "$((value >> 20))M"
    for name in kaiwa:KAIWA_CPUS haproxy:KAIWA_HAPROXY_CPUS; do
        value=$(docker service inspect --format '{{.Spec.TaskTemplate.Resources.Limits.NanoCPUs}}' \
            "${STACK}_${name%:*}" 2>/dev/null || echo 0)
        [ "$value" = 0 ] || keep "${name#*:}" "$(awk -v n="$value" 'BEGIN { printf "%g", n / 1e9 }')"
    done
    for name in KAIWA_EDGE_SECONDS KAIWA_EDGE_CONNECTIONS; do
        value=$(docker service inspect --format \
            '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' \
            "${STACK}_edge" 2>/dev/null | sed -n "s/^$name=//p" || true)
        keep "$name" "$value"
    done
    for name in edge:KAIWA_EDGES haproxy:KAIWA_BALANCERS; do
        keep "${name#*:}" "$(docker service inspect --format '{{.Spec.Mode.Replicated.Replicas}}' \
            "${STACK}_${name%:*}" 2>/dev/null || true)"
    done
    for name in edge:EDGE_IMAGE haproxy:HAPROXY_IMAGE redis:REDIS_IMAGE prometheus:PROMETHEUS_IMAGE grafana:GRAFANA_IMAGE \
        alertmanager:ALERTMANAGER_IMAGE blackbox:BLACKBOX_IMAGE; do
        value=$(docker service inspect --format '{{.Spec.TaskTemplate.ContainerSpec.Image}}' \
            "${STACK}_${name%:*}" 2>/dev/null || true)
        # With its digest: what a name means may change, and what runs must not with it.
        keep "${name#*:}" "$value"
    done
    name_image
}

# A call may last this long, so a stopping server and the balancer need it and some more.
derive_grace() {
    local longest=${KAIWA_MAX_SECONDS:-360}
    [ "$longest" -gt 0 ] || [ -n "${KAIWA_GRACE:-}" ] ||
        die "calls without a limit (KAIWA_MAX_SECONDS=0) need KAIWA_GRACE, such as 3600s"
    export KAIWA_GRACE=${KAIWA_GRACE:-$((longest + 30))s}
    # What the balancer is told in seconds.
    local left=$KAIWA_GRACE seconds=0
    while [[ $left =~ ^([0-9]+)([hms])(.*)$ ]]; do
        case ${BASH_REMATCH[2]} in
            h) seconds=$((seconds + BASH_REMATCH[1] * 3600)) ;;
            m) seconds=$((seconds + BASH_REMATCH[1] * 60)) ;;
            s) seconds=$((seconds + BASH_REMATCH[1])) ;;
        esac
        left=${BASH_REMATCH[3]}
    done
    [ "$seconds" -gt "$longest" ] ||
        die "KAIWA_GRACE is $KAIWA_GRACE, and calls may last $longest s; give more, or an update cuts them"
    export KAIWA_DRAIN_SECONDS=${KAIWA_DRAIN_SECONDS:-$seconds}
}

# An engine takes no container that may use more processors than there are.
derive_processors() {
    local name most have
    have=$(docker info --format '{{.NCPU}}')
    [ "$have" -gt 0 ] || return 0
    for name in KAIWA_CPUS:4 KAIWA_HAPROXY_CPUS:2; do
        most=${name#*:} name=${name%:*}
        if [ -z "${!name:-}" ] && [ "$have" -lt "$most" ]; then
            export "$name=$have"
        fi
    done
}

# A local image is built anew under its old name, which would be no change to Swarm, and no image to
# go back to. So each gets a tag of its own. One of a registry has its digest, and other nodes would
# not know the tag.
pin_image() {
    local id digests name
    [ "$(count_nodes)" -le 1 ] || return 0
    id=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null) || return 0
    digests=$(docker image inspect --format '{{len .RepoDigests}}' "$image")
    [ "$digests" = 0 ] || return 0
    name=$image
    [[ ${name##*/} == *:* ]] || name=$name:latest
    name=$name-id-${id:7:12}
    change docker tag "$image" "$name"
    if on GPU; then export KAIWA_GPU_IMAGE=$name; else export KAIWA_IMAGE=$name; fi
}

# Megabytes that a replica needs of its machine's memory, as `kaiwa plan` counts; nothing if the
# model's size is not known here.
model_megabytes() {
    local weights bytes=2
    case ${KAIWA_MODEL:-kyutai/moshika-candle-q8} in
        demo | synth:echo) echo 400; return ;;
        kyutai/moshik[ao]-*-q4) weights=int4 ;;
        kyutai/moshik[ao]-*-q8) weights=int8 ;;
        kyutai/moshik[ao]-*-bf16) weights=${KAIWA_QUANTIZE:-bf16} ;;
        *) return 0 ;;
    esac
    # To a GPU the weights go a tensor at a time.
    ! on GPU || { echo 2048; return; }
    case ${KAIWA_KV_DTYPE:-} in
        float32) bytes=4 ;;
        int8) bytes=1.03125 ;;
    esac
    # A process, the codec, the weights; and for each slot keys and values of 32 layers for the longest
    # call or the window of 3000 steps, and the codec's state.
    awk -v weights="$weights" -v bytes=$bytes -v slots="${KAIWA_SLOTS:-8}" \
        -v seconds="${KAIWA_MAX_SECONDS:-360}" 'BEGIN {
        a["bf16"] = 2; a["int8"] = 1.0625; a["int4"] = 0.5625
        steps = seconds > 0 && seconds < 240 ? int(seconds * 12.5) + 1 : 3000
        steps = int((steps + 63) / 64) * 64
        each = 2 * 32 * 4096 * steps * bytes + 16.9e6
        printf "%d", (1e9 + 385e6 + 7687729152 * a[weights] + slots * each) / 1048576 }'
}

# Free memory of the engine's machine in megabytes, as a container sees it; nothing if there is no
# image to ask with.
free_megabytes() {
    docker run --rm --network none --read-only --entrypoint cat "$image" /proc/meminfo 2>/dev/null |
        awk '$1 == "MemAvailable:" { printf "%d", $2 / 1024 }' || true
}

gigabytes() { awk -v m="$1" 'BEGIN { printf "%.1f GiB", m / 1024 }'; }

# Each line: ok or WRONG, what, and what to do. Status 1 if anything is wrong.
doctor() {
    local wrong=0 state
    ok() { say "ok     $*"; }
    bad() { say "WRONG  $*"; wrong=1; }
    if command -v docker >/dev/null &&
        docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
        ok "Docker engine $(docker version --format '{{.Server.Version}}')${DOCKER_HOST:+ at $DOCKER_HOST}"
    else
        bad "no Docker engine answers${DOCKER_HOST:+ at $DOCKER_HOST}: start it, or set DOCKER_HOST"
        return 1
    fi
    state=$(swarm_state)
    case $state in
        active)
            if [ "$(docker info --format '{{.Swarm.ControlAvailable}}')" = true ]; then
                ok "a manager of a Swarm"
            else
                bad "this node is no manager: set DOCKER_HOST to one"
            fi ;;
        locked) bad "the Swarm is locked: docker swarm unlock" ;;
        inactive) ok "no Swarm yet: up makes one of this machine" ;;
        *) bad "the Swarm of this engine is in state $state: docker info says why" ;;
    esac
    local kind from
    while read -r kind _ _ from; do
        if [ -n "${secret_problem[$kind]:-}" ]; then
            bad "${secret_problem[$kind]}"
        elif [ "$state" = active ] && has_secret "${secret_name[$kind]}"; then
            ok "secret ${secret_name[$kind]}"
        elif [ -n "${secret_file[$kind]:-}" ]; then
            ok "secret ${secret_name[$kind]}: up makes it of $from"
        else
            ok "secret ${secret_name[$kind]%_*}: up makes one at random"
        fi
    done < <(secret_kinds)
    local nodes
    nodes=$(count_nodes)
    look_at_image
    look_at_revision
    look_at_processors
    look_at_memory
    ! on GPU || [ "$state" != active ] || look_at_gpus
    look_at_ports
    return $wrong
}

look_at_image() {
    if docker image inspect "$image" >/dev/null 2>&1; then
        if [ "$nodes" -gt 1 ] &&
            [ "$(docker image inspect --format '{{len .RepoDigests}}' "$image")" = 0 ]; then
            bad "image $image is on this node only: set KAIWA_IMAGE to a name in a registry that all" \
                "$nodes nodes reach, and ./deploy.sh build and push"
        else
            ok "image $image"
        fi
    elif [[ $image == */* ]]; then
        ok "image $image: the nodes pull it"
    else
        bad "no image $image here: ./deploy.sh build"
    fi
}

look_at_revision() {
    local model=${KAIWA_MODEL:-kyutai/moshika-candle-q8}
    [[ $model == */* && $model != /* && $model != .* ]] || return 0
    if [ -n "${KAIWA_REVISION:-}" ]; then
        ok "model $model at revision $KAIWA_REVISION"
    else
        ok "model $model: whatever is newest when a replica starts; KAIWA_REVISION=COMMIT pins it"
    fi
}

look_at_processors() {
    local name have
    have=$(docker info --format '{{.NCPU}}')
    [ "$nodes" -le 1 ] || return 0
    for name in KAIWA_CPUS KAIWA_HAPROXY_CPUS; do
        if awk -v asked="${!name:-0}" -v have="$have" 'BEGIN { exit asked <= have }'; then
            bad "$name is ${!name}, and this machine has $have: lower it"
        fi
    done
    if [ "${KAIWA_REPLICAS:-3}" -ge "${KAIWA_MAX_TASKS:-64}" ]; then
        bad "the balancer knows ${KAIWA_MAX_TASKS:-64} replicas at once, draining ones included:" \
            "raise KAIWA_MAX_TASKS above ${KAIWA_REPLICAS:-3}"
    fi
}

look_at_memory() {
    local need limit free replicas=${KAIWA_REPLICAS:-3} more all
    need=$(model_megabytes)
    limit=$(megabytes "${KAIWA_MEMORY:-24G}")
    if [ -z "$need" ]; then
        ok "memory: how much ${KAIWA_MODEL:-} needs is not known here, so KAIWA_MEMORY is taken" \
            "for it (kaiwa plan says what a model needs)"
        need=$limit
    elif [ "$need" -gt "$limit" ]; then
        bad "memory: ${KAIWA_MODEL:-kyutai/moshika-candle-q8} with ${KAIWA_SLOTS:-8} slots needs" \
            "$(gigabytes "$need"): raise KAIWA_MEMORY (${KAIWA_MEMORY:-24G}), or lower KAIWA_SLOTS"
    fi
    if [ "$nodes" -gt 1 ]; then
        ok "several nodes: see for yourself that each has room for its replicas"
        return
    fi
    free=$(free_megabytes)
    more=$replicas
    if [ -z "$free" ]; then
        free=$(($(docker info --format '{{.MemTotal}}') >> 20))
    elif has_service kaiwa; then
        # Those that run have theirs.
        more=$((replicas - $(docker service inspect --format '{{.Spec.Mode.Replicated.Replicas}}' \
            "${STACK}_kaiwa")))
        [ $more -gt 0 ] || more=0
    fi
    all="$more replicas"
    if [ "${KAIWA_UPDATE_ORDER:-start-first}" = start-first ]; then
        more=$((more + 1))
        all="$all and one to update with"
    fi
    if [ $((need * more)) -le "$free" ]; then
        ok "memory: $all, $(gigabytes "$need") each, fit into $(gigabytes "$free")"
    else
        bad "memory: $all, $(gigabytes "$need") each, do not fit into $(gigabytes "$free"): lower" \
            "KAIWA_REPLICAS or KAIWA_SLOTS, or update without a spare (KAIWA_UPDATE_ORDER=stop-first)"
    fi
}

look_at_gpus() {
    local found replicas=${KAIWA_REPLICAS:-3}
    found=$(docker node ls -q | xargs docker node inspect --format \
        '{{range .Description.Resources.GenericResources}}{{with .NamedResourceSpec}}{{if eq .Kind "gpu"}}1{{println}}{{end}}{{end}}{{with .DiscreteResourceSpec}}{{if eq .Kind "gpu"}}{{.Value}}{{println}}{{end}}{{end}}{{end}}' |
        awk '{ sum += $1 } END { print sum + 0 }')
    if [ "$found" -eq 0 ]; then
        bad "no node offers a GPU: node-generic-resources in its daemon.json (deploy/swarm/gpu.yml)"
    elif [ "$found" -lt "$replicas" ]; then
        bad "GPUs: $replicas replicas and $found GPUs: lower KAIWA_REPLICAS"
    elif [ "$found" -eq "$replicas" ] && [ "${KAIWA_UPDATE_ORDER:-start-first}" = start-first ]; then
        bad "GPUs: all $found are taken, so an update would wait for one for ever:" \
            "KAIWA_UPDATE_ORDER=stop-first, or one replica less"
    else
        ok "GPUs: $found for $replicas replicas"
    fi
}

# Whether the balancer's ports are free, by taking them for a moment.
look_at_ports() {
    local said port ports=("${KAIWA_HTTP_PORT:-80}")
    ! on TLS || ports+=("${KAIWA_HTTPS_PORT:-443}")
    if [ "$nodes" -gt 1 ] || { [ "$state" = active ] && has_service edge; } ||
        ! docker image inspect "$image" >/dev/null 2>&1; then
        return 0
    fi
    for port in "${ports[@]}"; do
        if said=$(docker run --rm -p "$port:9" --entrypoint true "$image" 2>&1 >/dev/null); then
            ok "port $port is free"
        elif [[ $said == *"already"* ]]; then
            bad "port $port is taken: set KAIWA_HTTP_PORT (or KAIWA_HTTPS_PORT)"
        else
            bad "port $port or image $image cannot be used: ${said##*: }"
        fi
    done
}

# Stops where `up` could not work.
check_all() {
    local said
    if said=$(doctor); then
        return
    fi
    say "$said" | grep '^WRONG' >&2
    if [ -z "$dry_run" ]; then
        on FORCE || die "nothing was changed (FORCE=1 goes on all the same)"
    fi
}

up() {
    need_engine
    keep_running
    choose_secrets
    check_values
    derive_grace
    derive_processors
    check_all
    if [ "$(swarm_state)" != active ]; then
        change docker swarm init ${ADVERTISE_ADDR:+--advertise-addr "$ADVERTISE_ADDR"}
    fi
    make_secrets
    pin_image
    export_config_digests
    local words
    mapfile -t words < <(files)
    # --prune: what was switched off goes.
    change docker stack deploy --prune "${words[@]}" "$STACK"
    [ -n "$dry_run" ] || forget_unused
}

build() {
    need_engine
    local file=Dockerfile name words=()
    ! on GPU || file=Dockerfile.cuda
    for name in BASE CUDA_BUILD CUDA_RUN KAIWA_CUDA_ARCHITECTURES CUDA_COMPUTE_CAP \
        RUST PIP_OPTIONS; do
        [ -z "${!name:-}" ] || words+=(--build-arg "$name=${!name}")
    done
    change docker build -f "$file" -t "$image" \
        --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)" \
        --build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || true)" \
        --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${words[@]+"${words[@]}"}" .
}

push() {
    need_engine
    [[ $image == */* ]] ||
        die "$image names no registry; set KAIWA_IMAGE (or KAIWA_GPU_IMAGE), such as registry.example/kaiwa:1"
    docker image inspect "$image" >/dev/null 2>&1 || die "no image $image here; run ./deploy.sh build"
    change docker push "$image"
}

rollback() {
    need_stack
    [ "$(docker service inspect --format '{{if .PreviousSpec}}yes{{end}}' "${STACK}_kaiwa")" = yes ] ||
        die "the replicas had no update that could be taken back"
    change docker service rollback --detach "${STACK}_kaiwa"
}

# Also waits: a stack that comes up while its networks are being removed would not get them.
down() {
    local label=label=com.docker.stack.namespace=$STACK
    need_engine
    if [ "$(swarm_state)" != active ]; then
        say "this engine is in no Swarm: nothing to remove"
        return
    fi
    change docker stack rm "$STACK"
    [ -z "$dry_run" ] || return 0
    if [ -n "$(docker ps -q --filter "$label")" ]; then say "waiting for calls to end"; fi
    while [ -n "$(docker ps -q --filter "$label")$(docker network ls -q --filter "$label")" ]; do
        sleep 1
    done
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
    scale | logs) most=2 ;;
    *) most=1 ;;
esac
[ $# -le $most ] || die "$1 takes no ${words[$most]}; see ./deploy.sh --help"

case ${1:-} in
    doctor)
        check_values
        # A stack that runs is looked at as it runs.
        keep_running >/dev/null 2>&1 || true
        choose_secrets >/dev/null 2>&1
        doctor ;;
    build) build ;;
    push) push ;;
    up) up ;;
    update) need_stack; up ;;
    rotate) need_stack; rotating=1; up ;;
    status)
        need_stack
        docker stack services "$STACK"
        docker service ps "${STACK}_kaiwa" --filter desired-state=running
        docker service inspect "${STACK}_kaiwa" \
            --format '{{if .UpdateStatus}}last update: {{.UpdateStatus.State}} ({{.UpdateStatus.Message}}){{end}}' ;;
    scale)
        [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || die "scale needs a number of replicas"
        need_stack
        change docker service scale --detach "${STACK}_kaiwa=$2" ;;
    rollback) rollback ;;
    logs) need_stack; docker service logs --tail "${TAIL:-100}" "${STACK}_${2:-kaiwa}" ;;
    down) down ;;
    '') usage; exit 2 ;;
    *) die "unknown command $1; see ./deploy.sh --help" ;;
esac
