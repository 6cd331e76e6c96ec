#!/usr/bin/env bash
# Several Docker engines on one machine, each in namespaces of its own (network, mounts, host name), as
# nodes for a Swarm. For trying by hand what a single node cannot show; needs root.
#
#   tests/ops/nodes.sh up 3        engines at unix:///tmp/kaiwa-nodes/1/docker.sock and so on, with the
#                                  addresses 10.99.0.1 and so on, as one Swarm; the first is its manager
#   tests/ops/nodes.sh down
#
# Then: DOCKER_HOST=unix:///tmp/kaiwa-nodes/1/docker.sock ./deploy.sh ..., with images loaded into each
# engine (`docker save | docker load`). `ip -n kaiwa-node2 link set eth0 down` cuts a node off;
# `docker node update --availability drain node2` drains it.
#
# What was found out on the way:
# - Docker in containers (`docker run --privileged`) may be refused where the outer engine has not all
#   capabilities itself ("unable to apply caps"). This needs none of it.
# - `ip netns exec` mounts a /sys without control groups, and an engine then says "Devices cgroup isn't
#   mounted"; `nsenter --net` does not.
# - The network inside the stack is encrypted between nodes, for which the kernel needs ESP with
#   AES-GCM. Without it the engine's log says "Failed Adding rSA ... function not implemented", and services
#   on different nodes do not reach each other. An overlay network without `encrypted` worked there.
# - The engines look for images in their registries before they take their own, which costs half a minute
#   for each service where there is no way out.
set -euo pipefail
folder=/tmp/kaiwa-nodes

engine() { # NODE WORDS...
    local node=$1
    shift
    docker -H "unix://$folder/$node/docker.sock" "$@"
}

up() {
    local count=$1 node token
    ip link add kaiwa-nodes type bridge
    ip addr add 10.99.0.254/24 dev kaiwa-nodes
    ip link set kaiwa-nodes up
    iptables -I FORWARD -i kaiwa-nodes -o kaiwa-nodes -j ACCEPT
    mkdir -p "$folder"
    echo '{}' >"$folder/daemon.json"
    for node in $(seq "$count"); do
        mkdir -p "$folder/$node"
        ip netns add "kaiwa-node$node"
        ip link add "kaiwa-v$node" type veth peer name eth0 netns "kaiwa-node$node"
        ip link set "kaiwa-v$node" master kaiwa-nodes up
        ip -n "kaiwa-node$node" addr add "10.99.0.$node/24" dev eth0
        ip -n "kaiwa-node$node" link set eth0 up
        ip -n "kaiwa-node$node" link set lo up
        ip -n "kaiwa-node$node" route add default via 10.99.0.254
        nsenter --net="/var/run/netns/kaiwa-node$node" unshare --mount --uts setsid bash -c "
            mount --make-rprivate / && mount -t tmpfs tmpfs /run && hostname node$node &&
            echo \$\$ >$folder/$node/pid &&
            exec dockerd --config-file $folder/daemon.json --data-root $folder/$node/data \
                --exec-root /run/docker --pidfile /run/docker.pid --storage-driver fuse-overlayfs \
                --host unix://$folder/$node/docker.sock --cgroup-parent /kaiwa-node$node" \
            >"$folder/$node/log" 2>&1 &
    done
    for node in $(seq "$count"); do
        until engine "$node" info >/dev/null 2>&1; do sleep 0.5; done
    done
    engine 1 swarm init --advertise-addr 10.99.0.1 >/dev/null
    token=$(engine 1 swarm join-token -q worker)
    for node in $(seq 2 "$count"); do
        engine "$node" swarm join --token "$token" --advertise-addr "10.99.0.$node" 10.99.0.1:2377
    done
    engine 1 node ls
}

down() {
    local home node
    for home in "$folder"/*/; do
        node=$(basename "$home")
        engine "$node" swarm leave --force >/dev/null 2>&1 || true
        if [ -s "$home/pid" ]; then kill "$(cat "$home/pid")" 2>/dev/null || true; fi
        while [ -s "$home/pid" ] && kill -0 "$(cat "$home/pid")" 2>/dev/null; do sleep 0.5; done
        ip netns del "kaiwa-node$node" || true
    done
    iptables -D FORWARD -i kaiwa-nodes -o kaiwa-nodes -j ACCEPT || true
    ip link del kaiwa-nodes || true
    rm -rf "$folder"
}

case ${1:-} in
    up) up "${2:-3}" ;;
    down) down ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 2 ;;
esac
